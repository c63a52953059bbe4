"""What a `pairs` stage demands of its sections, and what is known of learning from what it makes."""

from collections.abc import Callable, Iterator, Sequence

from wavalign.engine.compile.plan import StagePlan, TermPlan, Warned
from wavalign.schema.marks import Path
from wavalign.schema.pairs import GoldenPairs, rewards_asked
from wavalign.schema.stage import Stage
from wavalign.schema.stage_kinds import KINDS

Note = Callable[[str, str, Path, str], None]
"""Takes a problem's code, message, path and hint."""


def reads_model(stage: Stage) -> bool:
    """Whether a stage builds a network, or writes answers as tokens for rewards that order them."""
    asked = stage.type == "pairs" and rewards_asked(stage.pairs, stage.rewards)
    return KINDS[stage.type].network or bool(asked)


def check_pairs(stage: Stage, note: Note) -> None:
    """Note what is missing of answers, golden answers and rounds."""
    section, data = stage.pairs, stage.data
    if data.samples is None:
        hint = "add data.samples: answers to pair, e.g. {type: jsonl, stage: NAME} of a generate stage"
        note("missing_section", "pairs needs data.samples", ("data", "samples"), hint)
    if isinstance(section, GoldenPairs) and section.gold == "demonstrations" and data.demonstrations is None:
        message = "golden answers are taken from data.demonstrations, and that is not there"
        note("missing_section", message, ("data", "demonstrations"), "add them, or set gold: reference")
    if section.merge != "none" and stage.round is None:
        message = f"merge: {section.merge} is of earlier rounds, and the stage is in no `repeat`"
        note("conflict", message, ("pairs", "merge"), "leave it out, or put the stage into a repeat")


FULL, ADAPTED = 1e-6, 1e-5
"""Learning rates above which golden answers against the policy's own are known to end badly, without and with an
adapter: models of public size fell apart at larger ones, and the rates at which they did not are below (SpeechAlign
5e-7, Koel-TTS 1e-7)."""
WEAK = 0.1
"""Values of `beta` below which the policy is hardly held to the reference."""
HINT = (
    "take smaller steps or a larger beta, add an anchor (a cross_entropy term on demonstrations), or pair several"
    " answers of the policy by a score; watch the log-probs of both sides, and measure what is heard"
)


def golden_warnings(plan: StagePlan, stages: Sequence[Stage]) -> Iterator[Warned]:
    """A warning for every term that prefers golden answers in a way that is known to collapse.

    A real answer is told from a sampled one within a few hundred steps, whatever is good about it. The term then goes
    on to lower the log-probs of both sides. What is known of it: large steps or a weak hold on the reference, and no
    term that imitates beside it.
    """
    if plan.stage.round is not None and plan.stage.round.number > 1:
        return  # what stands once in the recipe is said once
    golden = {each.name for each in stages if each.type == "pairs" and isinstance(each.pairs, GoldenPairs)}
    live, data = [term for term in plan.terms if term.lives], plan.stage.data.learned
    anchored = any(term.unit == "token" and not {"advantages", "ref_logprobs"} & set(term.needs) for term in live)
    for term in live:
        if term.unit != "group" or "ref_logprobs" not in term.needs or anchored:
            continue
        writers = [each.stage for each in data.get(term.family, ()) if each.stage in golden]
        reasons = list(_reasons(plan, term))
        if writers and reasons:
            what = f"term `{term.name}` prefers the golden answers of stage {writers[0]}"
            how = f"with {' and '.join(reasons)} and no term that imitates: such settings are known to collapse"
            yield Warned(path=f"objective.terms.{term.name}", message=f"{what}, {how}", hint=HINT)


def _reasons(plan: StagePlan, term: TermPlan) -> Iterator[str]:
    """What of its settings is of the collapsing kind."""
    rate, beta = plan.stage.optim.learning_rate, term.loss.params.get("beta")
    most = FULL if plan.stage.model.adapter is None else ADAPTED
    if rate > most:
        yield f"a learning rate of {rate:g} (above {most:g})"
    if isinstance(beta, int | float) and beta < WEAK:
        yield f"a beta of {beta:g} (below {WEAK:g})"
