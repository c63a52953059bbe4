"""A plan in the words of its decisions: stages, terms, sizes, operators, and what was left out."""

from collections.abc import Iterator, Mapping
from typing import Any

from wavalign.engine.compile.plan import Plan, StagePlan, TermPlan
from wavalign.schema.component import Component, WeightedComponent


def summary(plan: Plan) -> str:
    """Lines that change exactly when the plan decides something else."""
    return "\n".join(_lines(plan)) + "\n"


def _lines(plan: Plan) -> Iterator[str]:
    runtime = plan.runtime
    yield f"{plan.name}: seed {plan.seed}, {plan.processes} x {plan.device}, {runtime.precision}"
    yield f"engine {runtime.engine.type} zero {runtime.engine.zero} offload {runtime.engine.offload_optimizer}"
    for stage in plan.stages:
        yield ""
        yield from _stage(stage)


def _stage(plan: StagePlan) -> Iterator[str]:
    stage = plan.stage
    start = f", from {stage.start}" if stage.start else ""
    yield f"stage {plan.name}: {stage.type}, steps {plan.first_step + 1} to {plan.first_step + plan.steps}{start}"
    yield f"  model {_named(stage.model.architecture)} {stage.model.preset or 'from a checkpoint'}"
    if stage.model.codec is not None:
        yield f"  codec {stage.model.codec.type}"
    if stage.model.nar is not None:
        yield f"  nar {_named(stage.model.nar)}"
    for name, sources in (("prompts", stage.data.prompts), ("demonstrations", stage.data.demonstrations)):
        if sources is not None:
            yield f"  {name} {_sources(sources)}"
    for split, sources in stage.data.evaluation.items():
        yield f"  evaluation {split} {_sources(sources)}: {', '.join(stage.evaluation.metrics)}"
    for name, reward in stage.rewards.items():
        yield f"  reward {name} {_named(reward)} weight {reward.weight} scale {reward.scale} {reward.on_failure}"
    if stage.objective is not None and stage.objective.gate is not None:
        yield f"  gate {_named(stage.objective.gate)}"
    if stage.objective is not None:
        yield f"  advantage {_named(stage.objective.advantage)}"
    yield from (f"  term {_term(term)}" for term in plan.terms)
    yield from (f"  warning {each.path}: {each.message}" for each in plan.warnings)
    sizes = plan.geometry
    if sizes is not None:
        yield f"  step {sizes.prompts} x {sizes.group_size} + {sum(each.groups for each in sizes.families)} rows"
        if sizes.updates > 1:
            yield f"  updates {sizes.epochs} epochs x {sizes.mini_batches} mini-batches"
        yield f"  process {sizes.rows_per_process} rows = {sizes.accumulation} x up to {sizes.micro_batch}"
    if plan.graph.operators:
        yield f"  rollouts hold {plan.graph.rollout_need}"
    yield from (f"  operator {each.scope} {each.name}" for each in plan.graph.operators)
    yield from (f"  left out {each.what}: {each.why}" for each in plan.graph.pruned)


def _term(term: TermPlan) -> str:
    factors = f"share {term.share} weight {term.weight:g}"
    if term.heads != "own":
        factors += f" heads {term.heads}"
    return f"{term.name} {_named(term.loss)} over {_named(term.mask)} on {term.family}, {factors}, {term.aggregation}"


def _sources(sources: tuple[WeightedComponent, ...]) -> str:
    return " + ".join(f"{each.weight:g} {_named(each)}" for each in sources)


def _named(component: Component) -> str:
    """Type and options; paths are left out, for they depend on where the repository lies."""
    return f"{component.type}({', '.join(_options(component.params))})"


def _options(params: Mapping[str, Any], lead: str = "") -> Iterator[str]:
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from _options(value, f"{lead}{key}.")
        elif not (isinstance(value, str) and value.startswith("/")):
            yield f"{lead}{key}={value}"
