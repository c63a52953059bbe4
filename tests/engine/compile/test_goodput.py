"""Checkpoint intervals and goodput: by hand, by numbers drawn at random, and by a simulated job."""

import math

import numpy as np
import pytest

from benchmarks.goodput import simulated
from wavalign.engine.compile.goodput import HOUR, Faults, mean_time_between_failures, slowest_of

FAULTS = Faults(mean_time=3 * HOUR, checkpoint=20, restart=120)


def test_intervals_by_hand() -> None:
    """M = 10,800 s, C = 20 s: sqrt(2 x 20 x 10,800) = 657.27; C / 2M = 1 / 1080."""
    assert FAULTS.young == pytest.approx(657.2670690, abs=1e-6)
    assert FAULTS.daly == pytest.approx(657.2670690 * (1 + math.sqrt(1 / 1080) / 3 + 1 / 9720) - 20, abs=1e-6)
    assert Faults(mean_time=10, checkpoint=20, restart=1).daly == 10


def test_dalys_interval_is_near_the_best() -> None:
    best = max(range(1, 5000), key=FAULTS.goodput)
    assert FAULTS.goodput(best) - FAULTS.goodput(FAULTS.daly) < 1e-5
    assert FAULTS.goodput(FAULTS.daly) >= FAULTS.goodput(FAULTS.young)


def test_goodput_without_failures_is_what_checkpoints_leave() -> None:
    assert Faults(mean_time=1e12, checkpoint=20, restart=120).goodput(180) == pytest.approx(0.9, abs=1e-6)


def test_whole_steps() -> None:
    assert FAULTS.steps_between(30) in (21, 22)
    assert FAULTS.steps_between(10_000) == 1


@pytest.mark.parametrize("interval", [200.0, 650.0, 3000.0])
def test_the_formula_is_what_a_simulated_job_keeps(interval: float) -> None:
    found = simulated(FAULTS, interval, span=200 * FAULTS.mean_time, jobs=40)
    assert found.goodput == pytest.approx(FAULTS.goodput(interval), abs=3 * found.half + 2e-3)


def test_mean_time_between_failures() -> None:
    """64 nodes, each of which fails once in 6,400 hours: one failure in 100 hours."""
    assert mean_time_between_failures(64, 1 / 6400) == pytest.approx(100 * HOUR)


@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_the_slowest_rank(ranks: int) -> None:
    drawn = np.random.default_rng(0).standard_normal((50_000, ranks)).max(axis=1).mean()
    assert slowest_of(ranks, 0.1) == pytest.approx(1 + 0.1 * drawn, abs=2e-3)
    assert slowest_of(1, 0.1) == 1


def test_two_ranks_by_hand() -> None:
    """E[max of two standard normal numbers] = 1 / sqrt(pi)."""
    assert slowest_of(2, 1.0) == pytest.approx(1 + 1 / math.sqrt(math.pi), abs=1e-3)
