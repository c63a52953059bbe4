"""How often rewards prefer the chosen answer, and how sure they are, by hand."""

import math

import numpy as np
import pytest
import torch

from wavalign.engine.models.preferences import BINS, accuracy, preferences


def expected_error(margins: np.ndarray) -> float:
    """ECE over ten equal parts of the sureness from one half to one."""
    sure = 1 / (1 + np.exp(-np.abs(margins)))
    right = np.where(margins > 0, 1.0, np.where(margins == 0, 0.5, 0.0))
    total = 0.0
    for index in range(BINS):
        low, high = 0.5 + index / (2 * BINS), 0.5 + (index + 1) / (2 * BINS)
        inside = (sure >= low) & ((sure < high) | (index == BINS - 1))
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    return total


def test_three_pairs_by_hand() -> None:
    """Right and nearly sure, wrong and half sure, undecided."""
    found = preferences(torch.tensor([4.0, -1.0, 0.0], dtype=torch.float64))
    assert found["accuracy"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert found["margin"] == pytest.approx(1.0)
    sure = {9: 1 / (1 + math.exp(-4)), 4: 1 / (1 + math.exp(-1)), 0: 0.5}
    for index, value in sure.items():
        assert found[f"calibration/{index}/sure"] == pytest.approx(value)
        assert found[f"calibration/{index}/pairs"] == 1
    assert [found[f"calibration/{index}/right"] for index in (9, 4, 0)] == [1.0, 0.0, 0.5]
    assert found["ece"] == pytest.approx(((1 - sure[9]) + sure[4] + 0) / 3)
    assert not any(key.startswith("calibration/5/") for key in found), "a part without pairs is left out"


def test_against_numpy() -> None:
    margins = np.random.default_rng(3).normal(0.4, 1.5, size=400)
    found = preferences(torch.tensor(margins))
    assert found["accuracy"] == pytest.approx((margins > 0).mean())
    assert found["ece"] == pytest.approx(expected_error(margins), rel=1e-12)
    assert found["margin/high"] - found["margin"] == pytest.approx(1.959964 * margins.std(ddof=1) / 20, rel=1e-6)


def test_a_calibrated_model_has_a_small_error_and_an_overconfident_one_a_large_one() -> None:
    generator = torch.Generator().manual_seed(5)
    size = 3 * torch.rand(20_000, generator=generator, dtype=torch.float64)
    held = torch.rand(20_000, generator=generator, dtype=torch.float64) < torch.sigmoid(size)
    calibrated = torch.where(held, size, -size)
    assert preferences(calibrated)["ece"] < 0.02
    assert preferences(5 * calibrated)["ece"] > 0.1
    assert preferences(-calibrated)["ece"] > 0.4


@pytest.mark.parametrize(("margins", "low", "high"), [([1.0] * 10, 0.7225, 1.0), ([-1.0] * 10, 0.0, 0.2775)])
def test_the_interval_is_wilsons(margins: list[float], low: float, high: float) -> None:
    found = accuracy(torch.tensor(margins))
    assert found["accuracy/low"] == pytest.approx(low, abs=1e-4)
    assert found["accuracy/high"] == pytest.approx(high, abs=1e-4)
    assert found["accuracy/count"] == 10


def test_one_pair_alone_has_a_margin_without_spread() -> None:
    found = preferences(torch.tensor([2.0]))
    assert (found["margin/low"], found["margin/high"]) == (2.0, 2.0)
