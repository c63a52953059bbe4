"""Values and their intervals, against formulas written out here."""

import math

import numpy as np
import pytest

from wavalign.engine.benchmarks.scoring import Score
from wavalign.engine.benchmarks.values import Column, value_of

Z = 1.959963984540054


def test_a_share_has_wilsons_interval() -> None:
    found = value_of(Column("x", [Score(float(i < 7)) for i in range(20)], "share", ""))
    p, n = 0.35, 20
    middle, half = (p + Z * Z / (2 * n)) / (1 + Z * Z / n), Z / (1 + Z * Z / n)
    half *= math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    assert (found.value, found.low, found.high) == pytest.approx((p, middle - half, middle + half), abs=1e-6)
    assert found.count == 20


def test_a_ratio_is_of_sums_and_its_interval_of_resampled_answers() -> None:
    errors, words = [1, 0, 4, 2], [2, 10, 4, 8]
    found = value_of(
        Column("x", [Score(e / w, weight=float(w)) for e, w in zip(errors, words, strict=True)], "ratio", "")
    )
    assert found.value == pytest.approx(7 / 24)
    draws = np.random.default_rng(0)
    ratios = []
    for _ in range(9_999):
        chosen = draws.integers(0, 4, 4)
        ratios.append(np.array(errors)[chosen].sum() / np.array(words)[chosen].sum())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(ratios, (0.025, 0.975))), abs=1e-6)


def test_what_has_no_number_is_counted_with_its_reason_and_is_no_zero() -> None:
    found = value_of(
        Column("x", [Score(4.0), Score(None, "the judge is down"), Score(None, "the judge is down")], "mean", "")
    )
    assert (found.value, found.count, found.missing) == (4.0, 1, {"the judge is down": 2})
    assert math.isnan(found.low)
    none = value_of(Column("x", [Score(None)], "share", ""))
    assert none.as_json()["value"] is None and math.isnan(none.value)
