"""Rules between the advantage of a stage and the terms that learn from it."""

from collections.abc import Iterator, Sequence

from wavalign.engine.compile.operators import ROLLOUTS, StageParts, scalar_outputs
from wavalign.engine.compile.parts import advantage_says
from wavalign.engine.compile.plan import Graph, TermPlan
from wavalign.plugins.registry import Registry
from wavalign.schema.marks import Path
from wavalign.schema.objective import CriticSection
from wavalign.schema.stage import Stage

LEARN_FROM_REWARDS = frozenset({"advantages", "returns"})
_TOKEN_LEVEL = "return_to_go or gae"


def advantage_problems(stage: Stage, terms: Sequence[TermPlan], registry: Registry) -> Iterator[tuple[Path, str, str]]:
    """Place, message and hint of whatever an advantage does not give that terms need, and the other way round."""
    objective, live = stage.objective, [term for term in terms if term.lives]
    if objective is None:
        return
    learning = [term for term in live if LEARN_FROM_REWARDS & set(term.needs)]
    says = advantage_says(objective.advantage, registry)
    name, place = objective.advantage.type, ("objective", "advantage")
    for term in learning:
        path: Path = ("objective", "terms", term.brought_by or term.name)
        if says.unit == "answer" and "returns" in term.needs:
            message = f"term `{term.name}` needs returns, which advantage '{name}' does not give"
            yield path, message, f"take a token-level advantage: {_TOKEN_LEVEL}"
        elif says.unit == "token" and term.unit != "token" and "advantages" in term.needs:
            message = f"term `{term.name}` has one value a {term.unit}, and advantage '{name}' gives one a token"
            yield path, message, "take a loss of unit token, e.g. grpo, or an advantage of unit answer"
    yield from _critic_problems(stage, objective.critic, live)
    if learning and "old_values" in says.needs and not any("values" in term.needs for term in live):
        message = f"advantage '{name}' compares with the values of a critic, and no term trains one"
        yield place, message, "add e.g. `value: {loss: value, weight: 0.5}` under objective.terms"


def compares(graph: Graph, parts: StageParts) -> str:
    """Why a prompt must have more than one answer; empty where one is enough."""
    says, pairing = parts.advantage, (term for term in parts.terms if term.unit == "group" and term.family == ROLLOUTS)
    if graph.gives("advantages") and says.compares_answers:
        return f"a group of 1 has no advantage: `{says.type}` would have it compared with itself"
    term = next(pairing, None)
    return "" if term is None else f"term `{term.name}` prefers one answer to another, and a group has 1"


def _critic_problems(stage: Stage, critic: CriticSection, live: Sequence[TermPlan]) -> Iterator[tuple[Path, str, str]]:
    """What a critic of its own demands."""
    place: Path = ("objective", "critic")
    if critic.type == "shared":
        if critic.start is not None:
            message = "a shared critic is the policy, and starts from its weights"
            yield (*place, "start"), message, "set type: separate, or remove start"
        return
    outputs = scalar_outputs(live)
    if not any(need in outputs for term in live for need in term.needs):
        message = "no term reads scalar outputs, so that there is nothing for a separate critic to learn"
        yield place, message, "add e.g. `value: {loss: value, weight: 0.5}` under objective.terms, or remove it"
    if stage.model.adapter is not None:
        message = "a separate critic is trained in full, and model.adapter trains a part of the policy"
        yield place, message, "take type: shared, or remove model.adapter"
