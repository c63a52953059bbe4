"""Sampling a step ahead: its operator, what it does not go with, and where it saves nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from wavalign.engine.compile.operators import ANSWERS, ROLLOUTS, SCALAR, Candidate, StageParts
from wavalign.engine.compile.plan import Operator, StagePlan, Warned
from wavalign.engine.compile.reward_checks import Noted
from wavalign.plugins.api import Reward, text_is_enough
from wavalign.plugins.guard import origin_of
from wavalign.plugins.registry import Registry
from wavalign.schema.stage import Stage

AHEAD = "rollout_ahead"
"""Name and function of the operator."""
WEIGHED, OLD, PATH = "weighed", "old_logprobs", "rollout.ahead"
_LEARNING = ("micro_batches", "term", "first_ratio")
"""Functions that read old log-probs where rows are learned from."""


def sampling_ahead(parts: StageParts) -> Iterator[Candidate]:
    """The operator that answers the next step's prompts; it starts behind this step's answers and waits for nobody."""
    if parts.ahead:
        operator = Operator(
            name=AHEAD,
            function=AHEAD,
            needs=("rollouts",),
            gives={"rollouts_ahead": ANSWERS},
            scope="collect",
            place="device",
            counts_as="rollout",
            detail="of the next step, while rewards score; by weights one step old when it learns",
        )
        yield Candidate(operator, follows=True)


def in_one_pass(known: Sequence[Candidate], parts: StageParts) -> list[Candidate]:
    """`known`; where each row is learned from once, with old log-probs and importance off the pass that learns.

    What is dropped there, or asks for old log-probs before it, needs them of a pass of their own.
    """
    once = parts.epochs * parts.mini_batches == 1 and not parts.dropout
    asked = any(OLD in term.needs for term in parts.terms)
    before = (each.operator for each in known if each.operator.function not in (*_LEARNING, "recompute"))
    early = any({OLD, "importance"} & set(each.needs) for each in before)
    if not parts.ahead or not once or not asked or early or any("importance" in term.needs for term in parts.terms):
        return list(known)
    operator = Operator(
        name=WEIGHED,
        function=WEIGHED,
        needs=("micro_batches", "logprobs"),
        gives={WEIGHED: "[B]", "mismatch": SCALAR},
        scope="micro_batch",
        place="device",
        detail="answers come from other weights: tokens count by the ratio to those that learn",
    )
    kept = [_weighed(each) for each in known if each.operator.function != "recompute"]
    return [*kept, Candidate(operator)]


def _weighed(candidate: Candidate) -> Candidate:
    """With what the pass that learns says of old log-probs in the place of those that were computed before it."""
    operator, needs = candidate.operator, candidate.operator.needs
    if operator.function == "micro_batches":
        needs = tuple("behaviour_logprobs" if each == OLD else each for each in needs if each != "importance")
    elif operator.function in _LEARNING:
        needs = tuple(WEIGHED if each == "micro_batches" else each for each in needs if each != OLD)
    return replace(candidate, operator=operator.model_copy(update={"needs": needs}))


def ahead_problems(stage: Stage) -> Iterator[Noted]:
    """What it cannot go with."""
    if stage.rollout.ahead and stage.rollout.resample is not None:
        message = (
            "rollout.resample draws further prompts once a step's rewards are there, and rollout.ahead has drawn those"
            " of the next step by then"
        )
        hint = "remove one of the two: groups without spread stay with ahead, and sampling waits with resample"
        yield "conflict", message, ("rollout", "ahead"), hint


def ahead_warnings(plan: StagePlan, registry: Registry) -> Iterator[Warned]:
    """Where it saves nothing, and which terms count answers of earlier weights as if they were this step's."""
    if not plan.stage.rollout.ahead:
        return
    if not plan.graph.made_for(AHEAD):
        yield Warned(path=PATH, message="nobody looks at rollouts, so nothing is sampled ahead", hint="leave it out")
        return
    names = plan.graph.made_for("reward")
    if all(_is_instant(plan.stage, name, registry) for name in names):
        what = f"rewards {', '.join(f'`{name}`' for name in names)} compare texts" if names else "there are no rewards"
        hint = "leave it out: every step then learns from answers of its own weights"
        yield Warned(path=PATH, message=f"sampling ahead saves no time here: {what}", hint=hint)
    for term in (each for each in plan.terms if each.lives and each.family == ROLLOUTS):
        if {"advantages", "rewards"} & set(term.needs) and "old_logprobs" not in term.needs:
            message = f"term `{term.name}` reads no old log-probs: answers of earlier weights count in full"
            yield Warned(path=PATH, message=message, hint="learn from them with a loss that reads old_logprobs")


def _is_instant(stage: Stage, name: str, registry: Registry) -> bool:
    """Whether a built-in reward looks at text with nothing that takes time; of others nobody knows."""
    component = stage.rewards[name]
    plugin = registry.get("reward", component.type)
    assert issubclass(plugin, Reward)
    if not origin_of(plugin, "reward", component.type).own or not text_is_enough(plugin.needs):
        return False
    return not plugin.instrument(plugin.Params.model_validate(dict(component.params)))
