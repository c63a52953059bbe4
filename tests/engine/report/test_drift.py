"""The drift alarm: rises by SciPy, values on the same items, and how often noise raises it."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from scipy import stats

from wavalign.engine.report.drift import drifts, rise
from wavalign.engine.report.paired import paired

Outcomes = Mapping[str, Sequence[float | None]]
RISING = [0.1 + 0.02 * step + 0.01 * (-1) ** step for step in range(30)]


def test_a_rise_is_that_of_kendall() -> None:
    found = rise(RISING, looks=3)
    assert found is not None
    expected = stats.kendalltau(np.arange(30), RISING, alternative="greater").pvalue
    assert found.p == pytest.approx(expected, rel=1e-9)
    assert (found.first, found.last) == pytest.approx((np.mean(RISING[:10]), np.mean(RISING[20:])))
    assert rise(RISING[::-1], looks=1) is None and rise([0.5] * 30, looks=1) is None
    assert rise(RISING[:9], looks=1) is None, "too few steps"


def test_each_look_makes_it_harder() -> None:
    draws = np.random.default_rng(3)
    wandering = (0.02 * np.arange(20) + draws.standard_normal(20) * 0.3).tolist()
    p = stats.kendalltau(np.arange(20), wandering, alternative="greater").pvalue
    assert 0.005 < p < 0.05, "the case is one in between"
    assert rise(wandering, looks=1) is not None and rise(wandering, looks=10) is None


def test_what_gets_worse_on_the_same_items_is_named() -> None:
    before: Outcomes = {"heard": [1.0] * 20 + [0.0] * 5, "errors": [0.1] * 25, "text": [1.0, 0.0] * 12 + [None]}
    after: Outcomes = {"heard": [1.0] * 8 + [0.0] * 17, "errors": [0.4] * 25, "text": [1.0, 0.0] * 12 + [None]}
    found = {each.name: each for each in drifts(RISING, before, after, less=["errors"], where=("heldout", 40))}
    assert set(found) == {"heard", "errors"}
    heard = found["heard"]
    alone = paired(after["heard"], before["heard"])
    assert alone is not None and heard.p >= alone.p, "corrected for looking at three"
    assert (heard.before, heard.after, heard.since) == (0.8, 0.32, 40)
    said = str(heard)
    assert "since step 40" in said and "heldout/heard" in said and "fell on the same items (0.8 to 0.32" in said
    assert "rose, where less is better, on the same items (0.1 to 0.4" in str(found["errors"])


def test_what_gets_better_or_has_no_rising_reward_is_no_alarm() -> None:
    before: Outcomes = {"heard": [0.0] * 20}
    after: Outcomes = {"heard": [1.0] * 20}
    assert drifts(RISING, before, after) == []
    assert drifts(RISING, after, before, less=["heard"]) == []
    assert drifts(RISING, after, before) != []
    assert drifts(RISING[::-1], after, before) == [], "the reward falls"
    assert drifts(RISING, {"heard": [None] * 20}, {"heard": [None] * 20}) == []
    assert drifts(RISING, {"heard": [1.0] * 20}, {"other": [0.0] * 20}) == []


def alarms(runs: int, *, looks: int, values: int, items: int, rises: bool, seed: int) -> float:
    """Share of runs with an alarm, where values only wander: items change sides as often as they change back."""
    raised = 0
    for run in range(runs):
        draws = np.random.default_rng([seed, run])
        start = {f"v{v}": (draws.random(items) < 0.6).astype(float).tolist() for v in range(values)}
        rewards = (0.02 * rises * np.arange(20 * looks) + 0.3 * draws.standard_normal(20 * looks)).tolist()
        for look in range(1, looks + 1):
            # Drawn anew with the same share: nothing has got worse, and many items are otherwise.
            now = {f"v{v}": (draws.random(items) < 0.6).astype(float).tolist() for v in range(values)}
            if drifts(rewards[: 20 * look], start, now, looks=looks):
                raised += 1
                break
    return raised / runs


def test_noise_seldom_raises_it() -> None:
    assert alarms(30, looks=3, values=2, items=40, rises=True, seed=0) <= 0.1


@pytest.mark.slow
def test_how_often_noise_raises_it() -> None:
    """Over a whole stage of five measurements after the first, four values of 100 items."""
    rising = alarms(400, looks=5, values=4, items=100, rises=True, seed=1)
    level = alarms(400, looks=5, values=4, items=100, rises=False, seed=2)
    assert rising <= 0.05 and level <= 0.005, (rising, level)
