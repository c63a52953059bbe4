"""Steps from which nothing is learned: noticed, counted, and said once.

A step is dead where no answer's advantage differs from 0, for whatever reason; where the terms that learn from rewards
have a share of about 0; where every answer was cut off (or most, and the others teach nothing), or none has any text.
Each cause counts its consecutive steps; at `runtime.dead_signal_after` of them it is said, once a stage, in one line
with what to do. `dead_signal` in the metrics is the longest count of a cause that holds now.
"""

from collections.abc import Mapping, Sequence
from typing import Any, final

from wavalign.engine.compile.plan import StagePlan

MOST = 0.5
"""Share of answers cut off that explains why the others teach nothing."""
NO_SHARE = 1e-3
"""A share below this moves no weight to speak of."""

_WORDS = {
    "missing": (
        "no answer has a reward",
        "rollouts.jsonl says why beside each reward; mend the reward, or its on_failure and on_absent",
    ),
    "equal": (
        "all answers to a prompt have the same reward, so every advantage is 0",
        "take prompts that are answered right now and then, raise rollout.temperature or group_size, or grade finer",
    ),
    "truncated": (
        "all answers or most were cut off at rollout.max_new_tokens",
        "raise it, or start from a model that ends its answers; rollout.truncated says what such answers are worth",
    ),
    "wordless": (
        "no answer has any text",
        "look at rollouts.jsonl: the prompts' layout, the checkpoint and model.architecture must belong together",
    ),
    "share": (
        "the terms that learn from rewards have a share of about 0",
        "look at the gate's factors in metrics.jsonl; on another reward scale than 1 to 5 its threshold must follow",
    ),
}


@final
class SignalWatch:
    """What a stage's steps learn from; equal on every rank, for the metrics are."""

    def __init__(self, plan: StagePlan, after: int) -> None:
        self._after = after
        terms = [term for term in plan.terms if term.lives and "advantages" in term.needs]
        self._learns = bool(terms)
        self._moving = [term.name for term in terms if term.share.moves]
        self._counts: dict[str, int] = {}
        self._said: list[str] = []

    def step(self, metrics: Mapping[str, float]) -> tuple[dict[str, float], Sequence[str]]:
        """Take a step's metrics; gives what is added to them and what is to be said."""
        if not self._learns or "truncated" not in metrics:  # nothing is learned from rewards
            return {}, ()
        causes = self._causes(metrics)
        self._counts = {cause: self._counts.get(cause, 0) + 1 for cause in causes}
        due = [
            cause for cause in causes if self._after and self._counts[cause] >= self._after and cause not in self._said
        ]
        self._said += due
        # One thing at a time: where every answer was cut off, that they are all equal is no news.
        lines = [_line(cause, self._counts[cause]) for cause in due[:1]]
        return {"dead_signal": float(max(self._counts.values(), default=0))}, lines

    def state_dict(self) -> dict[str, Any]:
        """How long each cause has held, and what was said."""
        return {"counts": dict(self._counts), "said": list(self._said)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict()`."""
        self._counts = {str(cause): int(count) for cause, count in state["counts"].items()}
        self._said = [str(cause) for cause in state["said"]]

    def _causes(self, metrics: Mapping[str, float]) -> list[str]:
        """What makes this step a dead one, the deepest cause first."""
        found = ["wordless"] if metrics["wordless"] == 1 else []
        if "reward" not in metrics:
            found.append("missing")
        elif metrics["nonzero_advantages"] == 0:
            found.append("equal")
        if metrics["truncated"] == 1 or (found and metrics["truncated"] >= MOST):
            found.insert(0, "truncated")
        if self._moving and all(abs(metrics[f"share/{name}"]) < NO_SHARE for name in self._moving):
            found.append("share")
        return found


def _line(cause: str, count: int) -> str:
    what, hint = _WORDS[cause]
    return f"for {count} steps nothing was learned from rewards: {what}; {hint}"
