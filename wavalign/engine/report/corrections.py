"""From a judge's value to what people gave answers of that value: a straight line, or the best rising curve.

Both are fitted to single askings, every answer with the same weight, so that they correct what a run gets: one asking.
Least squares draws a noisy judge's values together, for the noise of a very high value lifted it. What that gains is
measured on prompts that the fit has not seen. Source: Barlow et al., "Statistical inference under order restrictions"
(1972), by scipy.optimize.isotonic_regression.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy.optimize import isotonic_regression

from wavalign.engine.report.agreement import Judged, Numbers
from wavalign.schema.calibration import Affine, Correction, Isotonic

FOLDS = 5


def line(judged: Judged) -> Affine | None:
    """The straight line; None where the judge gave all the same."""
    x, y, weights = _points(judged)
    if not len(x) or np.ptp(x) == 0:
        return None
    weights = weights / weights.sum()
    x_mean, y_mean = float(weights @ x), float(weights @ y)
    slope = float(weights @ ((x - x_mean) * (y - y_mean)) / (weights @ (x - x_mean) ** 2))
    return Affine(offset=y_mean - slope * x_mean, slope=slope)


def curve(judged: Judged) -> Isotonic | None:
    """The rising curve, by its corners; None where the judge gave all the same."""
    x, y, weights = _points(judged)
    if not len(x) or np.ptp(x) == 0:
        return None
    values, which = np.unique(x, return_inverse=True)
    mass = np.bincount(which, weights)
    fitted = isotonic_regression(np.bincount(which, weights * y) / mass, weights=mass).x
    knots = list(zip(values.tolist(), fitted.tolist(), strict=True))
    corners = [
        knot
        for i, knot in enumerate(knots)
        if i in (0, len(knots) - 1) or not knots[i - 1][1] == knot[1] == knots[i + 1][1]
    ]
    return Isotonic(knots=tuple(corners))


def corrected(values: Numbers, found: Correction) -> Numbers:
    """`values` [...] on the people's scale; NaN stays NaN."""
    if found.line is not None:
        values = found.line.offset + found.line.slope * values
    elif found.curve is not None:
        x, y = (np.array(each) for each in zip(*found.curve.knots, strict=True))
        values = np.where(np.isnan(values), math.nan, np.interp(values, x, y))
    return values if found.scale is None else np.clip(values, *found.scale)


def corrected_variance(values: Numbers, variances: Numbers, found: Correction) -> Numbers:
    """The variance [...] that an error of `variances` leaves behind the correction.

    By the slope between one standard deviation below and above: a rising curve is level in places, and steps.
    """
    if found.line is None and found.curve is None:
        return variances
    spread = np.sqrt(variances)
    moved = (corrected(values + spread, found) - corrected(values - spread, found)) / 2
    return np.asarray(moved**2, dtype=np.float64)


def unseen_errors(judged: Judged, fit: Callable[[Judged], Affine | Isotonic | None]) -> Numbers:
    """[R, N] how far corrected values lie from people's, of prompts that the fit has not seen."""
    names = {name: place for place, name in enumerate(dict.fromkeys(judged.prompts))}
    fold = np.array([names[each] % FOLDS for each in judged.prompts])
    found = np.full_like(judged.judge, math.nan)
    for number in range(FOLDS):
        made = fit(judged.part(np.flatnonzero(fold != number)))
        if made is not None:
            inside = fold == number
            values = corrected(judged.judge[:, inside], as_correction(made, judged.scale))
            found[:, inside] = np.abs(values - judged.people[inside])
    return found


def as_correction(made: Affine | Isotonic, scale: tuple[float, float]) -> Correction:
    """A fit as a run uses it."""
    if isinstance(made, Affine):
        return Correction(line=made, scale=scale)
    return Correction(curve=made, scale=scale)


def _points(judged: Judged) -> tuple[Numbers, Numbers, Numbers]:
    """Judge, people and weight of every asking."""
    there = ~np.isnan(judged.judge)
    people = np.broadcast_to(judged.people, judged.judge.shape)
    weights = np.broadcast_to(1 / np.maximum(there.sum(axis=0), 1), judged.judge.shape)
    return judged.judge[there], people[there], weights[there]
