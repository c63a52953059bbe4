"""Rewards and metrics with one instrument: what is optimised and what is measured then share their errors."""

from collections.abc import Iterator
from typing import Any

from wavalign.engine.compile.plan import StagePlan, Warned
from wavalign.plugins.api import Metric, Reward
from wavalign.plugins.guard import Guard, origin_of
from wavalign.plugins.registry import Registry
from wavalign.schema.component import Component

HINT = (
    "its gain may be the instrument's mistakes as well as better answers: judge it by the other metrics and by ear,"
    " or measure with another instrument"
)


def shared_instruments(plan: StagePlan, registry: Registry) -> Iterator[Warned]:
    """A warning for every metric of a stage that measures with what a reward of it measures with."""
    stage = plan.stage
    asked = stage.rewards if _learns(plan) else {name: stage.rewards[name] for name in stage.choosing}
    used = {name: _instrument("reward", each, registry) for name, each in asked.items()}
    for name, metric in stage.evaluation.metrics.items():
        instrument = _instrument("metric", metric, registry)
        rewards = [reward for reward, theirs in used.items() if theirs == instrument]
        if instrument and rewards:
            listed = ", ".join(f"`{reward}`" for reward in rewards)
            message = f"metric `{name}` measures with the instrument of reward {listed}: {instrument}"
            yield Warned(path=f"evaluation.metrics.{name}", message=message, hint=HINT)


def independent_metrics(plan: StagePlan, registry: Registry) -> list[str]:
    """The metrics of a stage that learns from rewards which measure with no reward's instrument; else none."""
    if not _learns(plan):
        return []
    used = {_instrument("reward", each, registry) for each in plan.stage.rewards.values()}
    measured = {name: _instrument("metric", each, registry) for name, each in plan.stage.evaluation.metrics.items()}
    return [name for name, instrument in measured.items() if not instrument or instrument not in used]


def _learns(plan: StagePlan) -> bool:
    return any("advantages" in term.needs and term.lives for term in plan.terms)


def _instrument(kind: str, component: Component, registry: Registry) -> str:
    plugin: Any = registry.get(kind, component.type)
    assert issubclass(plugin, (Reward, Metric))
    with Guard(origin_of(plugin, kind, component.type), "instrument"):
        found = plugin.instrument(plugin.Params.model_validate(dict(component.params)))
    return found if isinstance(found, str) else ""
