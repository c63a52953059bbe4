"""The variance of the total's own error, against sums in NumPy."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from tests.engine.step.test_rewards import Scripted, cut_off, groups, live, scored
from wavalign.engine.step.reward_noise import own_errors, total_noise, unstated
from wavalign.engine.step.reward_pool import LiveReward, RewardPool
from wavalign.engine.step.rewards import Scores, judge_truncated
from wavalign.plugins.batch import Scored
from wavalign.schema.base import Params

NAN = math.nan


@pytest.fixture
def pools() -> Iterator[list[RewardPool]]:
    """Pools to be closed, whatever happens."""
    made: list[RewardPool] = []
    yield made
    for pool in made:
        pool.close()


def says(name: str, answers: dict[str, Scored], **section: object) -> LiveReward:
    """A reward in 0..2 that says of each text what `answers` hold."""
    return live(name, reward=Scripted(Params(), answers), **section)


JUDGE = {
    "all": Scored(1.0, variance=0.25),
    "exact": Scored(2.0, variance=0.0),
    "unknown": Scored(0.5),
    "failed": Scored(None, "down"),
    "absent": Scored.absent("no words"),
}
RULE = {"all": Scored(0.0, variance=0.5), "exact": Scored(2.0), "unknown": Scored(1.0)}
RULE |= {"failed": Scored(1.0, variance=0.5), "absent": Scored(1.0, variance=0.5)}


def judged(pools: list[RewardPool], texts: Sequence[str]) -> Scores:
    """By a judge on a scale of 1 to 5 that counts three times, and a rule that counts once."""
    made = [says("judge", JUDGE, weight=3, scale=[1, 5], on_failure="renormalize"), says("rule", RULE, weight=1)]
    return scored(made, groups(texts), pools)


def test_parts_add_by_the_squares_of_weight_and_slope(pools: list[RewardPool]) -> None:
    """(w / W)^2 slope^2 var, W over the rewards that gave a value; slope (5 - 1) / (2 - 0)."""
    scores = judged(pools, ["all", "exact", "unknown", "failed", "absent"])
    slope, own = (5 - 1) / (2 - 0), np.array([3.0, 1.0])
    shares = own / own.sum()
    expected = [
        shares[0] ** 2 * slope**2 * 0.25 + shares[1] ** 2 * 0.5,
        0.0,  # of the judge alone: the rule states none
        NAN,
        0.5,  # the rule alone gave a value
        shares[1] ** 2 * 0.5,  # the recipe's word made the judge's: the lowest
    ]
    torch.testing.assert_close(scores.noise, torch.tensor([expected], dtype=torch.float64), equal_nan=True)
    lacking = unstated(scores.errors, scores.parts, scores.total)
    assert lacking.tolist() == [[False, True, True, False, False]]


def test_an_answer_without_a_total_has_no_noise(pools: list[RewardPool]) -> None:
    scores = scored([says("judge", JUDGE, on_failure="drop_group")], groups(["all", "failed"], ["all", "exact"]), pools)
    expected = torch.tensor([[NAN, NAN], [0.25, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(scores.noise, expected, equal_nan=True)
    assert not unstated(scores.errors, scores.parts, scores.total).any()


@pytest.mark.parametrize(("rule", "expected"), [("keep", [0.25, 0.25]), ("lowest", [0.0, 0.25]), ("mask", [NAN, 0.25])])
def test_what_the_recipe_makes_of_a_cut_answer_has_no_error(rule: str, expected: list[float]) -> None:
    total = torch.ones(1, 2, dtype=torch.float64)
    scores = Scores(total, {"a": total}, {}, errors={"a": torch.full_like(total, 0.25)})
    judged = judge_truncated(scores, [live("a")], cut_off(False, True), rule)
    torch.testing.assert_close(judged.noise, torch.tensor([expected], dtype=torch.float64), equal_nan=True)


def test_without_rewards_nothing_is_known() -> None:
    assert total_noise({}, torch.ones(1, 2)).isnan().all()


def test_no_value_where_the_noise_is_unknown() -> None:
    part = {"a": torch.tensor([[1.0, NAN]])}
    found = own_errors({"a": [[Scored(1.0), Scored(None)]]}, part, {"a": part["a"] < 0}, {"a": (1.0, 1.0)})
    assert found["a"].isnan().all()
