"""Is the policy as sure as it should be? The surprise of its tokens and the spread of its codes, within bounds.

    s = mean of -log p over the sampled tokens of a kind, nats      an estimate of the entropy they were sampled with
    c = -sum over codes of f log2 f, bits, f the share of a code    how evenly an answer uses its codes
    r = min over what is bounded of  x / low below, 1 within, high / x above

p is the probability under the distribution that was sampled, temperature and cut among them. A policy that has
collapsed has s near 0; one that babbles has much more than before. What is usual stands as `detail/NAME/...` in
rollouts.jsonl of a run: bound it from there. Made to be a guard. Source: own.
"""

import math
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar, Self, final

from pydantic import model_validator

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import AUDIO_ROLES, TEXT_ROLES, Dialogue, Role, Rollout, Scored
from wavalign.plugins.bounds import Bounds, within
from wavalign.schema.base import Params


@final
class EntropyParams(Params):
    """What is bounded: one of these at least."""

    text: Bounds | None = None
    """Least and most surprise of a text token and of the text's end, nats, e.g. [0.01, 3]."""
    audio: Bounds | None = None
    """The same of a code, as the policy's network sees it."""
    codes: Bounds | None = None
    """Least and most bits of the answer's own codes, at most log2 of their number."""

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if self.text is None and self.audio is None and self.codes is None:
            raise ValueError("nothing is bounded: set text, audio or codes")
        return self


@final
class Entropy(Reward):
    """From 0 to 1: 1 within all bounds."""

    Params = EntropyParams
    needs: ClassVar[frozenset[str]] = frozenset()
    range = (0.0, 1.0)
    params: EntropyParams

    @classmethod
    def needs_of(cls, params: EntropyParams) -> frozenset[str]:
        return frozenset({"text"} if params.audio is None and params.codes is None else ())

    def __init__(self, params: EntropyParams) -> None:
        super().__init__(params)
        self.needs = self.needs_of(params)  # type: ignore[misc]  # options decide them

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        found = {name: (value, bounds) for name, value, bounds in self._measured(rollout)}
        if missing := next((name for name, (value, _) in found.items() if math.isnan(value)), None):
            return Scored.absent(f"the answer has no {missing}")
        values = {name: within(*each) for name, each in found.items()}
        worst = min(values, key=lambda name: values[name])
        value, (low, high) = found[worst]
        unit = "bits" if worst == "codes" else "nats a token"
        reason = f"{value:.3g} {unit} of {worst}, bounds {low:g} to {high:g}" if values[worst] < 1 else ""
        return Scored(values[worst], reason, {name: each[0] for name, each in found.items()})

    def _measured(self, rollout: Rollout) -> Iterator[tuple[str, float, tuple[float, float]]]:
        """Name, value and bounds of what is bounded; NaN where the answer has nothing of it."""
        params = self.params
        if params.text is not None:
            yield "text", _surprise(rollout, TEXT_ROLES), params.text
        if params.audio is not None:
            yield "audio", _surprise(rollout, AUDIO_ROLES), params.audio
        if params.codes is not None:
            yield "codes", spread(rollout.answer.codes), params.codes


def _surprise(rollout: Rollout, roles: tuple[Role, ...]) -> float:
    """Mean of -log p over the positions with one of `roles`, nats."""
    chosen = sum(
        (rollout.completion.roles == role for role in roles), rollout.completion.roles != rollout.completion.roles
    )
    found = rollout.logprobs[chosen]
    return max(0.0, float(-found.double().mean())) if len(found) else math.nan


def spread(codes: tuple[int, ...]) -> float:
    """Entropy of how often each of `codes` comes, bits; NaN of none."""
    if not codes:
        return math.nan
    shares = [count / len(codes) for count in Counter(codes).values()]
    return max(0.0, -sum(share * math.log2(share) for share in shares))
