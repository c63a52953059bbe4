"""What scores come to: a value with its 95 % interval and how many answers it is of."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from wavalign.engine.benchmarks.scoring import Score, Unit, is_missing

RESAMPLES = 9_999


@final
@dataclass(frozen=True, slots=True)
class Column:
    """One score of every answer, in the order of the questions."""

    name: str
    scores: Sequence[Score]
    unit: Unit
    says: str
    less: bool = False
    """Whether less is better."""


@final
@dataclass(frozen=True, slots=True)
class Value:
    """One number of an evaluation."""

    name: str
    value: float
    """NaN where no answer has one."""
    low: float
    high: float
    count: int
    """Answers that it is of."""
    missing: Mapping[str, int]
    """Why others have none -> how many."""
    unit: Unit
    says: str
    less: bool = False

    def as_json(self) -> dict[str, object]:
        """For files and programs; null where there is no number."""
        return {
            "value": _json(self.value),
            "low": _json(self.low),
            "high": _json(self.high),
            "count": self.count,
            "missing": dict(self.missing),
            "unit": self.unit,
            "better": "less" if self.less else "more",
            "says": self.says,
        }


def value_of(column: Column) -> Value:
    """Shares by Wilson's interval, means and ratios of sums by the percentile bootstrap over answers."""
    there = [each for each in column.scores if not is_missing(each)]
    reasons = Counter(each.reason or "no reason given" for each in column.scores if is_missing(each))
    centre, low, high = _interval(there, column.unit)
    return Value(column.name, centre, low, high, len(there), reasons, column.unit, column.says, column.less)


def _interval(scores: Sequence[Score], unit: Unit) -> tuple[float, float, float]:
    values = np.array([each.value for each in scores], dtype=np.float64)
    if not len(values):
        return math.nan, math.nan, math.nan
    if unit == "share" and np.isin(values, (0.0, 1.0)).all():
        found = binomtest(int(values.sum()), len(values)).proportion_ci(0.95, "wilson")
        return float(values.mean()), float(found.low), float(found.high)
    weights = np.array([each.weight for each in scores], dtype=np.float64)
    centre = float((values * weights).sum() / weights.sum())
    if len(values) < 2:
        return centre, math.nan, math.nan
    return centre, *_bootstrap(values * weights, weights)


def _bootstrap(numerators: npt.NDArray[np.float64], denominators: npt.NDArray[np.float64]) -> tuple[float, float]:
    """95 % of the ratios of sums [R] when answers [N] are resampled; always the same draws."""
    generator, count = np.random.default_rng(0), len(numerators)
    drawn = []
    for _ in range(RESAMPLES):
        chosen = generator.integers(0, count, count)
        drawn.append(numerators[chosen].sum() / denominators[chosen].sum())
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None
