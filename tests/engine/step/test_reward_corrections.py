"""Corrected values in a step: before the scale, with their variance, and only where there is a value."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.engine.step.test_rewards import Scripted, groups, live, scored
from wavalign.engine.step.reward_corrections import corrected_word
from wavalign.engine.step.reward_pool import LiveReward, RewardPool
from wavalign.plugins.batch import Scored
from wavalign.schema.base import Params
from wavalign.schema.calibration import Affine, Correction, Isotonic

LINE = Correction(line=Affine(offset=1.0, slope=1.5), scale=(1.0, 5.0), noise=0.04)
CURVE = Correction(curve=Isotonic(knots=((0.0, 1.0), (1.0, 2.0), (2.0, 5.0))), scale=(1.0, 5.0), noise=0.04)


@pytest.fixture
def pools() -> Iterator[list[RewardPool]]:
    """Pools to be closed, whatever happens."""
    made: list[RewardPool] = []
    yield made
    for pool in made:
        pool.close()


def says(correction: Correction | None, answers: dict[str, Scored], **section: Any) -> LiveReward:
    return replace(live(reward=Scripted(Params(), answers), **section), correction=correction)


ANSWERS = {
    "stated": Scored(1.0, variance=0.25),
    "unstated": Scored(2.0),
    "failed": Scored(None, "down"),
    "absent": Scored.absent("silence"),
}


def test_values_are_corrected_and_then_scaled(pools: list[RewardPool]) -> None:
    """1 + 1.5 v on 1..5, which the scale maps to 0..1: (v' - 1) / 4; the variance by the squares of both slopes."""
    made = scored([says(LINE, ANSWERS, scale=[0, 1])], groups([*ANSWERS]), pools)
    expected = torch.tensor([[1.5 / 4, 3.0 / 4, math.nan, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(made.parts["r"], expected, equal_nan=True)
    noise = [(1.5 / 4) ** 2 * 0.25, (1.5 / 4) ** 2 * 0.04, math.nan, 0.0]
    torch.testing.assert_close(made.noise, torch.tensor([noise], dtype=torch.float64), equal_nan=True)
    assert made.failed == {"r": 1} and made.absent["r"].tolist() == [[False, False, False, True]]
    word = made.words["r"][0][0]
    assert word.value == 2.5 and word.details["uncorrected"] == 1.0


def test_without_a_calibration_nothing_moves(pools: list[RewardPool]) -> None:
    made = scored([says(None, ANSWERS)], groups([*ANSWERS]), pools)
    torch.testing.assert_close(
        made.parts["r"], torch.tensor([[1.0, 2.0, math.nan, 0.0]], dtype=torch.float64), equal_nan=True
    )
    assert all("uncorrected" not in word.details for word in made.words["r"][0])


def test_the_lowest_value_is_that_of_the_people(pools: list[RewardPool]) -> None:
    made = scored([says(LINE, ANSWERS)], groups(["absent"]), pools)
    assert made.parts["r"].tolist() == [[1.0]]


def test_noise_alone_leaves_values(pools: list[RewardPool]) -> None:
    made = scored([says(Correction(noise=0.5), ANSWERS)], groups(["stated", "unstated"]), pools)
    assert made.parts["r"].tolist() == [[1.0, 2.0]] and made.noise.tolist() == [[0.25, 0.5]]


def test_a_curve_has_the_slope_between_one_deviation_below_and_above() -> None:
    word = corrected_word(Scored(1.0, variance=0.25), CURVE)
    assert word.value == 2.0 and word.variance == pytest.approx(((3.5 - 1.5) / 2) ** 2)


def test_words_of_tokens_go_with_a_line_and_not_with_a_curve() -> None:
    word = Scored(1.0, tokens=torch.tensor([[0.0, 1.0]]))
    line, curve = corrected_word(word, LINE), corrected_word(word, CURVE)
    assert line.tokens is not None and line.tokens.tolist() == [[0.0, 1.5]] and curve.tokens is None
