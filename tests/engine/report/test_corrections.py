"""A line and a rising curve from a judge to people, against NumPy's fits and an isotonic regression by hand."""

import math

import numpy as np
import pytest

from tests.engine.report.test_agreement import judged
from wavalign.engine.report.agreement import Judged
from wavalign.engine.report.corrections import (
    as_correction,
    corrected,
    corrected_variance,
    curve,
    line,
    unseen_errors,
)
from wavalign.schema.calibration import Affine, Correction, Isotonic

SCALE = (1.0, 5.0)


def pooled(y: list[float], weights: list[float]) -> list[float]:
    """Pool adjacent violators, as written down by Barlow et al."""
    blocks: list[list[float]] = []
    for value, weight in zip(y, weights, strict=True):
        blocks.append([value, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (a, wa, na), (b, wb, nb) = blocks[-2:]
            blocks[-2:] = [[(a * wa + b * wb) / (wa + wb), wa + wb, na + nb]]
    return [value for value, _, count in blocks for _ in range(int(count))]


def points() -> tuple[Judged, np.ndarray, np.ndarray, np.ndarray]:
    data = judged()
    there = ~np.isnan(data.judge)
    weights = np.broadcast_to(1 / there.sum(axis=0), data.judge.shape)[there]
    return data, data.judge[there], np.broadcast_to(data.people, data.judge.shape)[there], weights


def test_the_line_is_that_of_weighted_least_squares() -> None:
    data, x, y, weights = points()
    found = line(data)
    assert found is not None
    slope, offset = np.polyfit(x, y, 1, w=np.sqrt(weights))
    assert (found.slope, found.offset) == pytest.approx((slope, offset), abs=1e-9)


def test_the_curve_is_that_of_pooled_neighbours() -> None:
    data, x, y, weights = points()
    found = curve(data)
    assert found is not None
    values = np.unique(x)
    means = [float(np.average(y[x == each], weights=weights[x == each])) for each in values]
    expected = pooled(means, [float(weights[x == each].sum()) for each in values])
    np.testing.assert_allclose(corrected(values, Correction(curve=found)), expected, atol=1e-9)
    assert len(found.knots) <= len(values)


def test_a_judge_that_falls_gives_a_level_curve_and_a_falling_line() -> None:
    data = judged()
    data = Judged(10 - data.judge, data.people, data.prompts, data.places, {}, data.span, data.scale)
    falling, level = line(data), curve(data)
    assert falling is not None and falling.slope < 0
    assert level is not None and len({round(y, 9) for _, y in level.knots}) <= 3


def test_nothing_is_fitted_to_a_judge_that_says_one_thing() -> None:
    data = judged()
    data = Judged(np.full_like(data.judge, 4.0), data.people, data.prompts, data.places, {}, data.span, data.scale)
    assert line(data) is None and curve(data) is None
    assert np.isnan(unseen_errors(data, line)).all()


def test_values_stay_on_the_scale_and_what_is_missing_stays_missing() -> None:
    found = as_correction(Affine(offset=-1.0, slope=2.0), SCALE)
    np.testing.assert_allclose(corrected(np.array([0.0, 2.0, 9.0, math.nan]), found), [1.0, 3.0, 5.0, math.nan])
    found = as_correction(Isotonic(knots=((1.0, 2.0), (3.0, 4.0))), SCALE)
    np.testing.assert_allclose(corrected(np.array([0.0, 2.0, 9.0, math.nan]), found), [2.0, 3.0, 4.0, math.nan])
    assert corrected(np.array(7.5), Correction(noise=1.0)) == 7.5


def test_variances_go_by_the_square_of_the_slope() -> None:
    found = as_correction(Affine(offset=0.5, slope=0.5), SCALE)
    values, variances = np.array([4.0, 6.0, math.nan]), np.array([1.0, 4.0, 1.0])
    np.testing.assert_allclose(corrected_variance(values, variances, found), [0.25, 1.0, math.nan])
    assert corrected_variance(np.array(9.0), np.array(1.0), found) == pytest.approx(0.0625), "half of it is cut off"
    level = as_correction(Isotonic(knots=((1.0, 1.0), (2.0, 3.0), (3.0, 3.0), (4.0, 5.0))), SCALE)
    assert corrected_variance(np.array(2.5), np.array(1.0), level) == pytest.approx((4.0 - 2.0) ** 2 / 4), "a level"
    assert corrected_variance(np.array(2.0), np.array(3.0), Correction(noise=3.0)) == 3.0


def test_what_a_correction_gains_is_measured_on_unseen_prompts() -> None:
    draws = np.random.default_rng(0)
    people = draws.uniform(1, 5, 200)
    judge = (0.5 * people + 3 + 0.1 * draws.standard_normal(200))[None]
    names = [f"p{i // 2}" for i in range(200)]
    data = Judged(judge, people, names, np.zeros_like(judge), {}, (1.0, 5.0), SCALE)
    errors = unseen_errors(data, line)
    assert np.nanmean(errors) < 0.25 < np.abs(judge - people).mean()
    number = {name: place % 5 for place, name in enumerate(dict.fromkeys(names))}
    fold = np.array([number[each] for each in names])
    for part in range(5):
        slope, offset = np.polyfit(judge[0, fold != part], people[fold != part], 1)
        inside = fold == part
        expected = np.abs(np.clip(offset + slope * judge[0, inside], 1, 5) - people[inside])
        np.testing.assert_allclose(errors[0, inside], expected, atol=1e-9)
