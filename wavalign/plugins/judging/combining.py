"""Several replies on one answer: their mean or median, how far they are apart, and the variance of what comes out."""

import math
import statistics
from collections.abc import Sequence
from typing import Literal

Combine = Literal["mean", "median"]


def combined(values: Sequence[float], how: Combine) -> float:
    """The mean or median of at least one value."""
    return statistics.fmean(values) if how == "mean" else statistics.median(values)


def spread(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def variance(values: Sequence[float], how: Combine) -> float | None:
    """Of the combined value, by how far the values are apart; None for a single one, of which nothing is known.

    Of a mean s^2 / n, s^2 being the sample variance. Of a median pi/2 times that, what it is of many values of a normal
    distribution; of two values, whose median is their mean, the mean's.
    """
    if len(values) < 2:
        return None
    of_mean = statistics.variance(values) / len(values)
    return of_mean * math.pi / 2 if how == "median" and len(values) > 2 else of_mean
