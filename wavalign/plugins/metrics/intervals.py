"""Values with 95 % intervals: Wilson's for shares, the normal one for means."""

import math
from collections.abc import Sequence

from wavalign.plugins.api import Measurement
from wavalign.plugins.batch import Dialogue, RolloutGroup

_Z = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


def proportion(name: str, hits: Sequence[bool]) -> Measurement:
    """Share of `hits` with Wilson's interval (1927); NaN with the interval 0..1 for none."""
    count = len(hits)
    if count == 0:
        return Measurement(name, math.nan, 0.0, 1.0, 0)
    share, square = sum(hits) / count, _Z * _Z
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = _Z / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    # No hit and all hits end exactly at 0 and 1; the difference of two roundings does not.
    low = middle - half if share > 0 else 0.0
    high = middle + half if share < 1 else 1.0
    return Measurement(name, share, low, high, count)


def mean(name: str, values: Sequence[float], unit: str) -> Measurement:
    """Mean of `values` with its normal interval; NaN bounds below two values."""
    count = len(values)
    if count == 0:
        return Measurement(name, math.nan, math.nan, math.nan, 0, unit)
    centre = sum(values) / count
    if count == 1:
        return Measurement(name, centre, math.nan, math.nan, 1, unit)
    deviation = math.sqrt(sum((value - centre) ** 2 for value in values) / (count - 1))
    half = _Z * deviation / math.sqrt(count)
    return Measurement(name, centre, centre - half, centre + half, count, unit)


def proportions(name: str, hits: Sequence[tuple[Dialogue, bool]], by: Sequence[str]) -> list[Measurement]:
    """The share of all hits, then of each value of each metadata key in `by` as `name/key=value`."""
    measured = [proportion(name, [hit for _, hit in hits])]
    for key in by:
        groups: dict[str, list[bool]] = {}
        for dialogue, hit in hits:
            if key in dialogue.metadata:
                groups.setdefault(str(dialogue.metadata[key]).lower(), []).append(hit)
        measured += [proportion(f"{name}/{key}={value}", groups[value]) for value in sorted(groups)]
    return measured


def first_rollouts(groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
    """`groups` that hold a rollout: the first of each is what a held-out measurement looks at."""
    return [group for group in groups if group.rollouts]
