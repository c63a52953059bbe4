"""Advantages by hand, with the population deviation and 1e-4."""

import pytest
import torch

from wavalign.plugins.advantages.group_normalized import GroupNormalized, GroupNormalizedParams
from wavalign.plugins.api import AdvantageInputs

NAN = float("nan")
VECTORS = [
    ((4, 3, 5, 2), (0.447174, -0.447174, 1.341521, -1.341521)),
    ((5, 5, 1, 1), (0.99995, 0.99995, -0.99995, -0.99995)),
    ((5, 1, 1, 1), (1.731951, -0.577317, -0.577317, -0.577317)),
    ((5, 4, 2, 1), (1.264831, 0.632416, -0.632416, -1.264831)),
    ((4, 4, 4, 3), (0.577217, 0.577217, 0.577217, -1.731651)),
    ((3, 1, 3, 1), (0.9999, -0.9999, 0.9999, -0.9999)),
    ((2, 2, 1, 1), (0.9998, 0.9998, -0.9998, -0.9998)),
    ((3, 3, 3, 3), (0.0, 0.0, 0.0, 0.0)),
]


def compute(*groups: tuple[float, ...], **options: object) -> tuple[torch.Tensor, torch.Tensor]:
    plugin = GroupNormalized(GroupNormalizedParams.model_validate(options))
    found = plugin.compute(AdvantageInputs(torch.tensor(groups, dtype=torch.float64)))
    return found.values, found.valid


@pytest.mark.parametrize(("group", "expected"), VECTORS)
def test_population_deviation(group: tuple[float, ...], expected: tuple[float, ...]) -> None:
    advantages, valid = compute(group)
    assert advantages[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert valid.all()  # equal rewards are no reason to leave a group out


def test_sample_deviation_and_none() -> None:
    assert compute((3, 1), std="sample")[0][0].tolist() == pytest.approx(
        [1 / (2**0.5 + 1e-4)] * 1 + [-1 / (2**0.5 + 1e-4)]
    )
    assert compute((3, 1, 2), std="none")[0][0].tolist() == [1.0, -1.0, 0.0]
    assert compute((3, 1), eps=1.0)[0][0].tolist() == [0.5, -0.5]


@pytest.mark.parametrize("std", ["population", "sample", "none"])
def test_absent_rewards_are_in_neither_mean_nor_deviation(std: str) -> None:
    with_gap, valid = compute((5, NAN, 2, 1, NAN), std=std)
    without, _ = compute((5, 2, 1), std=std)
    assert valid.tolist() == [[True, False, True, True, False]]
    assert with_gap[0, [0, 2, 3]].tolist() == without[0].tolist()
    assert with_gap[0, [1, 4]].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("std", ["population", "sample", "none"])
def test_fewer_than_two_rewards_compare_with_nothing(std: str) -> None:
    advantages, valid = compute((4, NAN, NAN), (NAN, NAN, NAN), (1, 2, 3), std=std)
    assert advantages[:2].tolist() == [[0.0] * 3] * 2
    assert valid.tolist() == [[False] * 3, [False] * 3, [True] * 3]
    assert not advantages.isnan().any()


def test_groups_do_not_see_one_another() -> None:
    together, _ = compute((1, 2), (10, 30))
    apart = [compute(group)[0][0].tolist() for group in ((1, 2), (10, 30))]
    assert together.tolist() == apart
