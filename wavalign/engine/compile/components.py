"""Every plugin that a plan names, with the name a person knows it by."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from wavalign.engine.compile.plan import Plan, StagePlan
from wavalign.schema.component import Component, WeightedComponent
from wavalign.schema.pairs import GoldenPairs


@final
@dataclass(frozen=True, slots=True)
class Named:
    """A component of a plan."""

    label: str
    """E.g. `reward.answer`, `data.prompts`, `loss.grpo`; the same in every stage."""
    kind: str
    component: Component


def components(plan: Plan) -> Iterator[Named]:
    """The components of all stages, and the trackers."""
    for stage in plan.stages:
        yield from _of_stage(stage)
    yield from (Named(f"tracker.{each.type}", "tracker", each) for each in plan.runtime.trackers)


def _of_stage(stage: StagePlan) -> Iterator[Named]:
    section = stage.stage
    model, data = section.model, section.data
    named = {"architecture": model.architecture, "codec": model.codec, "nar": model.nar}
    yield from (Named(f"model.{kind}", kind, each) for kind, each in named.items() if each is not None)
    headings = {"data.prompts": data.prompts, "data.demonstrations": data.demonstrations}
    headings |= {} if data.samples is None else {"data.samples": data.samples}
    headings |= {f"data.families.{name}": sources for name, sources in data.families.items()}
    headings |= {f"data.evaluation.{name}": sources for name, sources in data.evaluation.items()}
    for label, sources in headings.items():
        yield from (Named(label, "data", each) for each in sources or ())
    yield from (Named(f"reward.{name}", "reward", each) for name, each in section.rewards.items())
    yield from (Named(f"metric.{name}", "metric", each) for name, each in section.evaluation.metrics.items())
    yield Named(f"sampler.{section.rollout.sampler.type}", "sampler", section.rollout.sampler)
    yield Named(f"provider.{section.rollout.provider.type}", "provider", section.rollout.provider)
    for term in stage.terms:
        yield Named(f"loss.{term.loss.type}", "loss", term.loss)
        yield Named(f"mask.{term.mask.type}", "mask", term.mask)
    if section.objective is not None:
        advantage, gate = section.objective.advantage, section.objective.gate
        yield Named(f"advantage.{advantage.type}", "advantage", advantage)
        if gate is not None:
            yield Named(f"gate.{gate.type}", "gate", gate)


def read_headings(stage: StagePlan) -> dict[str, Sequence[WeightedComponent]]:
    """The headings that a run of the stage reads, with their sources; families of rows by their own names."""
    data, kind = stage.stage.data, stage.kind
    found: dict[str, Sequence[WeightedComponent]] = {}
    if data.prompts is not None and (stage.graph.gives("prompts") if kind.learns else "prompts" in kind.headings):
        found["prompts"] = data.prompts
    if kind.learns:
        made = stage.graph.made_for("data_rows")
        found |= {name: sources for name, sources in data.learned.items() if name in made}
    elif data.demonstrations is not None and "demonstrations" in kind.headings and _reads_gold(stage):
        found["demonstrations"] = data.demonstrations
    if data.samples is not None and "samples" in kind.headings:
        found["samples"] = data.samples
    if "evaluation" in kind.headings and stage.stage.measures:
        found |= {f"evaluation.{name}": sources for name, sources in data.evaluation.items()}
    return found


def _reads_gold(stage: StagePlan) -> bool:
    """Whether a stage that does not learn reads demonstrations: for a `pairs` stage they are golden answers."""
    pairs = stage.stage.pairs
    return stage.stage.type != "pairs" or (isinstance(pairs, GoldenPairs) and pairs.gold == "demonstrations")


def there_before(sources: Sequence[WeightedComponent] | None) -> tuple[WeightedComponent, ...]:
    """Those that read what is there before a run."""
    return tuple(each for each in sources or () if each.stage is None)


def headings_there(stage: StagePlan) -> dict[str, Sequence[WeightedComponent]]:
    """All headings of a stage, whether a run reads them or not, with the sources that are there before it."""
    found = {name: there_before(sources) for name, sources in _all_headings(stage).items()}
    return {name: sources for name, sources in found.items() if sources}


def writers_of(stage: StagePlan, heading: str) -> list[str]:
    """Names of the stages whose answers stand under a heading."""
    return [each.stage for each in _all_headings(stage).get(heading, ()) if each.stage is not None]


def _all_headings(stage: StagePlan) -> dict[str, Sequence[WeightedComponent]]:
    data = stage.stage.data
    found: dict[str, Sequence[WeightedComponent]] = {
        "prompts": data.prompts or (),
        "samples": data.samples or (),
        **data.learned,
    }
    return found | {f"evaluation.{name}": sources for name, sources in data.evaluation.items()}


def written_by_stages(stage: StagePlan) -> list[str]:
    """Names of the stages whose answers a stage reads."""
    found = (each.stage for sources in read_headings(stage).values() for each in sources)
    return list(dict.fromkeys(name for name in found if name is not None))


def reward_links(stage: StagePlan) -> list[str]:
    """Names of the stages whose reward models a stage scores with."""
    return list(dict.fromkeys(each.stage for each in stage.stage.rewards.values() if each.stage is not None))


def used_sources(plan: Plan) -> list[tuple[str, Sequence[WeightedComponent]]]:
    """The data sources that the stages read and that are there before the run, by heading, in a fixed order."""
    found: list[tuple[str, Sequence[WeightedComponent]]] = []
    for stage in plan.stages:
        for name, sources in read_headings(stage).items():
            if there := there_before(sources):
                family = name in stage.stage.data.families
                found.append((f"data.families.{name}" if family else f"data.{name}", there))
    return found
