"""What a metric may give: a mean of one item has no interval, and that is no fault."""

import math
from typing import final

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
