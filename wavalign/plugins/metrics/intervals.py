"""Values with 95 % intervals: Wilson's for shares, the normal one for means."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from wavalign.plugins.api import Detail, Measurement
from wavalign.plugins.batch import Rollout, RolloutGroup

_Z = 1.959963984540054
"""97.5 % quantile of the normal distribution."""

Better = Literal["more", "less"]
RESAMPLES = 2000
"""Draws of a bootstrap."""
Details = Mapping[str, tuple[Detail, ...]]


def proportion(
    name: str,
    hits: Sequence[bool | None],
    *,
    details: Details | None = None,
    better: Better = "more",
    says: str = "",
) -> Measurement:
    """Share of `hits` with Wilson's interval (1927), None left out; NaN with the interval 0..1 where none is left."""
    return share(name, [None if hit is None else float(hit) for hit in hits], details=details, better=better, says=says)


def share(
    name: str,
    items: Sequence[float | None],
    *,
    details: Details | None = None,
    better: Better = "more",
    unit: str = "",
    says: str = "",
) -> Measurement:
    """The same of items that may be right in part, 0 to 1; their interval is too wide rather than too narrow."""
    counted = [item for item in items if item is not None]
    count, value, low, high = len(counted), math.nan, 0.0, 1.0
    if count:
        value, square = sum(counted) / count, _Z * _Z
        middle = (value + square / (2 * count)) / (1 + square / count)
        half = _Z / (1 + square / count) * math.sqrt(value * (1 - value) / count + square / (4 * count * count))
        # No hit and all hits end exactly at 0 and 1; the difference of two roundings does not.
        low = middle - half if value > 0 else 0.0
        high = middle + half if value < 1 else 1.0
    return Measurement(
        name,
        value,
        low,
        high,
        count,
        unit,
        items=tuple(items),
        details=details or {},
        better=better,
        says=says,
    )


def mean(name: str, values: Sequence[float | None], unit: str, *, says: str = "") -> Measurement:
    """Mean of `values` with its normal interval, None left out; NaN bounds below two values."""
    counted = [value for value in values if value is not None]
    count, centre, half = len(counted), math.nan, math.nan
    if count:
        centre = sum(counted) / count
    if count > 1:
        deviation = math.sqrt(sum((value - centre) ** 2 for value in counted) / (count - 1))
        half = _Z * deviation / math.sqrt(count)
    return Measurement(name, centre, centre - half, centre + half, count, unit, items=tuple(values), says=says)


def bootstrap_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, float]:
    """95 % of the ratios of sums when the items are resampled, always by the same draws; NaN below two items."""
    count, draws = len(numerators), np.random.default_rng(0)
    if count < 2:
        return math.nan, math.nan
    pairs = np.asarray([numerators, denominators], dtype=np.float64)
    sums = np.stack([pairs[:, draws.integers(0, count, count)].sum(axis=1) for _ in range(RESAMPLES)])
    low, high = np.quantile(sums[:, 0] / sums[:, 1], (0.025, 0.975))
    return float(low), float(high)


def broken_down(whole: Measurement, groups: Sequence[RolloutGroup], by: Sequence[str]) -> list[Measurement]:
    """A share again for each value of each metadata key in `by`, as `name/key=value`; aligned with all `groups`."""
    measured = []
    for key in by:
        known = [each.dialogue.metadata for each in groups]
        kinds = [str(each[key]).lower() if key in each else None for each in known]
        pairs = list(zip(kinds, whole.items, strict=True))
        for value in sorted({kind for kind, item in pairs if kind is not None and item is not None}):
            hits = [bool(item) if kind == value and item is not None else None for kind, item in pairs]
            measured.append(proportion(f"{whole.name}/{key}={value}", hits))
    return measured


def first_rollouts(groups: Sequence[RolloutGroup]) -> list[Rollout | None]:
    """The first answer of every group, which is what a held-out measurement looks at; None where there is none."""
    return [group.rollouts[0] if group.rollouts else None for group in groups]
