"""What a metric may give: a mean of one item has no interval, and that is no fault."""

import math
from dataclasses import replace
from typing import Any, final

import pytest

from tests.plugins.spoken import dialogue, group, rollout
from wavalign.engine.contracts.construct import construct
from wavalign.errors import PluginError
from wavalign.plugins.api import Measurement, Metric
from wavalign.plugins.guard import origin_of
from wavalign.plugins.metrics.intervals import mean


@final
class Mean(Metric):
    """Gives a mean of as many values as there are groups, or bounds that are no numbers."""

    type = "mean"
    needs = frozenset({"text"})

    def measure(self, groups: list[object]) -> list[Measurement]:  # type: ignore[override]
        return [mean("quality", [3.0] * len(groups), "MOS")]


def measured(count: int) -> Measurement:
    metric = construct(Metric, Mean, origin_of(Mean, "metric", "mean"), {}, {})
    return metric.measure([group(dialogue("yes"), rollout("yes"))] * count)[0]


def test_the_mean_of_one_item_has_no_bounds() -> None:
    one, two = measured(1), measured(2)
    assert one.value == 3.0 and math.isnan(one.low) and math.isnan(one.high)
    assert (two.low, two.high) == (3.0, 3.0)


def test_bounds_that_are_no_numbers_break_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Measurement("quality", 3.0, math.nan, 4.0, 2)
    monkeypatch.setattr(Mean, "measure", lambda self, groups: [broken])
    with pytest.raises(PluginError, match="lower bound"):
        measured(2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"better": "most"}, "says that 'most' of quality is better; it is more or less"),
        ({"points": {"gold": ((0.0, 0.0),)}}, "gave 1 values as cloud gold for 2 groups"),
        ({"points": {"gold": ((0.0, 0.0), (1.0,))}}, "as a point, which is two numbers"),
        ({"points": {"gold": (None, (1.0, math.inf))}}, "a point's place"),
        ({"points": [1]}, "as the points of quality"),
    ],
)
def test_pictures_and_directions_that_are_none(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str
) -> None:
    broken = replace(mean("quality", [1.0, 2.0], ""), **change)
    monkeypatch.setattr(Mean, "measure", lambda self, groups: [broken])
    with pytest.raises(PluginError) as caught:
        measured(2)
    assert said in str(caught.value)


def test_a_metric_may_look_at_states_and_at_the_start() -> None:
    for need, known in (("states", True), ("start", True), ("gradients", False)):
        made = type("Asks", (Mean,), {"needs": frozenset({need}), "__module__": __name__})
        if known:
            construct(Metric, made, origin_of(made, "metric", "asks"), {}, {})
            continue
        with pytest.raises(PluginError, match="there are text, waveform, states and start"):
            construct(Metric, made, origin_of(made, "metric", "asks"), {}, {})
