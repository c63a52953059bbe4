"""Every plugin that a plan names, with the name a person knows it by."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from wavalign.engine.compile.plan import Plan, StagePlan
from wavalign.schema.component import Component, WeightedComponent


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


def used_sources(plan: Plan) -> list[tuple[str, Sequence[WeightedComponent]]]:
    """The data sources that the stages read, by heading, in a fixed order."""
    found: list[tuple[str, Sequence[WeightedComponent]]] = []
    for stage in plan.stages:
        data = stage.stage.data
        if stage.graph.gives("prompts"):
            found.append(("data.prompts", data.prompts or ()))
        read = stage.graph.made_for("data_rows")
        if "demonstrations" in read or stage.stage.type == "fit_codec":
            found.append(("data.demonstrations", data.demonstrations or ()))
        found += [(f"data.families.{name}", each) for name, each in data.families.items() if name in read]
        if stage.stage.type == "train" and stage.stage.evaluation.metrics:
            found += [(f"data.evaluation.{name}", sources) for name, sources in data.evaluation.items()]
    return found
