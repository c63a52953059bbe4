"""A calibration for people: what its statistics are called, and what people gave answers of which the judge says so."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np

from wavalign.engine.report.agreement import Judged

SAYS = {
    "pearson": ("Pearson correlation with people", "of one asking, over all answers"),
    "spearman": ("Spearman correlation with people", "of one asking, over all answers"),
    "spearman_within": ("Spearman within prompt", "among answers to one prompt, mean over prompts"),
    "mae": ("mean absolute error", "points of the people's scale"),
    "within_one": ("within one point", "share of askings"),
    "bias": ("bias", "judge minus people"),
    "mae_affine": ("mean absolute error, affine", "corrected, on prompts the fit has not seen"),
    "mae_isotonic": ("mean absolute error, isotonic", "corrected, on prompts the fit has not seen"),
    "self_sd": ("asked again: standard deviation", "within an answer, the judge's unit"),
    "self_agreement": ("asked again: same value", "share of pairs of askings"),
    "self_icc": ("asked again: ICC(1)", "share of the variance that is between answers"),
    "noise": ("asked again: variance", "within an answer, the judge's unit squared"),
    "order": ("order: asked last minus first", "the judge's unit"),
    "length_words": ("length in words: correlation", "with the judge, people's scores being equal"),
    "per_ten_words": ("length in words: ten more", "points of the people's scale"),
    "length_seconds": ("length in seconds: correlation", "with the judge, people's scores being equal"),
    "per_ten_seconds": ("length in seconds: ten more", "points of the people's scale"),
}
"""By statistic, what it is called and what it is of."""
FEW = 8
"""Different values up to which each stands alone."""


@final
@dataclass(frozen=True, slots=True)
class Bin:
    """Askings with about the same value."""

    label: str
    judge: float
    """Their mean value."""
    people: float
    """What people gave on average."""
    count: int
    """Askings."""


def bins(judged: Judged, wanted: int) -> list[Bin]:
    """Every value of a judge that knows few, else `wanted` parts of equal size."""
    return list(_bins(judged, wanted))


def _bins(judged: Judged, wanted: int) -> Iterator[Bin]:
    there = ~np.isnan(judged.judge)
    values = judged.judge[there]
    people = np.broadcast_to(judged.people, judged.judge.shape)[there]
    different = np.unique(values)
    if len(different) <= FEW:
        for each in different.tolist():
            inside = people[values == each]
            yield Bin(f"{each:g}", each, float(inside.mean()), len(inside))
        return
    edges = np.unique(np.quantile(values, np.linspace(0, 1, wanted + 1)))
    edges[-1] = math.inf
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        inside = (values >= low) & (values < high)
        if inside.any():
            label = f"{values[inside].min():.3g} to {values[inside].max():.3g}"
            yield Bin(label, float(values[inside].mean()), float(people[inside].mean()), int(inside.sum()))
