"""The distance of two clouds whose distance is known, and the probe it is told by."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.plugins.spoken import dialogue, group, rollout
from wavalign.plugins.batch import RolloutGroup
from wavalign.plugins.linear_probe import Array, axes, fold_of, held_out_hits, logistic, plane
from wavalign.plugins.metrics.golden_distance import GoldenDistance, GoldenDistanceParams, gap
from wavalign.plugins.metrics.intervals import share


def pairs(gold: Array, sampled: Array) -> list[RolloutGroup]:
    """Groups with the states [N, H] of both sides, each of a dialogue of its own."""
    found = []
    for number, (one, other) in enumerate(zip(gold, sampled, strict=True)):
        asked = replace(dialogue(), id=f"d{number}")
        made = group(asked, replace(rollout(""), state=torch.tensor(other, dtype=torch.float32)))
        found.append(replace(made, target_state=torch.tensor(one, dtype=torch.float32)))
    return found


def distance(groups: Sequence[RolloutGroup], **params: float) -> tuple[float, float]:
    shared, far = GoldenDistance(GoldenDistanceParams.model_validate(params)).measure(groups)
    assert shared.count == far.count
    return shared.value, far.value


def cloud(count: int, size: int, seed: int, at: float = 0.0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, size)) + at


@pytest.mark.parametrize("size", [3, 64])
def test_clouds_apart_are_told_apart(size: int) -> None:
    """Also where there are more dimensions than points."""
    value, far = distance(pairs(cloud(20, size, 0), cloud(20, size, 1, at=8.0)))
    assert value == 1.0
    # The centres lie 8 apart in every one of `size` dimensions, and a point lies sqrt(size) from its own.
    assert far == pytest.approx(8.0, rel=0.2)


def test_the_same_cloud_cannot_be_told_apart() -> None:
    """Equal sides get one verdict, which is right for the one and wrong for the other: exactly a half."""
    points = cloud(20, 6, 0)
    groups = pairs(points, points)
    assert distance(groups) == (0.5, 0.0)
    (shared, _) = GoldenDistance(GoldenDistanceParams()).measure(groups)
    assert shared.items == (0.5,) * 20 and shared.low < 0.5 < shared.high


def test_two_clouds_of_one_distribution_are_near_a_half() -> None:
    value, far = distance(pairs(cloud(300, 4, 0), cloud(300, 4, 1)))
    assert abs(value - 0.5) < 0.06 and far < 2 * math.sqrt(2 / 300)


def test_a_shift_along_one_axis_by_hand() -> None:
    """Two normal clouds 2 apart along one axis: the best boundary is right in Phi(1) = 84 % of the cases."""
    value, far = distance(pairs(cloud(600, 1, 0), cloud(600, 1, 1, at=2.0)))
    assert value == pytest.approx(0.841, abs=0.02) and far == pytest.approx(2.0, abs=0.15)


def test_the_gap_by_hand() -> None:
    """Means 0 and 3, each side 1 from its mean."""
    measured = gap(np.array([[1.0], [-1.0]]), np.array([[4.0], [2.0]]))
    assert measured.value == pytest.approx(3.0) and measured.low <= 3.0 <= measured.high


def test_what_is_not_there_is_left_out() -> None:
    groups = pairs(cloud(12, 3, 0), cloud(12, 3, 1, at=9.0))
    groups[3] = replace(groups[3], target_state=None)
    groups[5] = group(groups[5].dialogue, rollout(""))
    shared, far = GoldenDistance(GoldenDistanceParams()).measure(groups)
    assert (shared.count, far.count) == (10, 10)
    assert [place for place, item in enumerate(shared.items) if item is None] == [3, 5]
    assert set(shared.points) == {"gold", "sampled"}
    for column in shared.points.values():
        assert [place for place, point in enumerate(column) if point is None] == [3, 5]
    few = GoldenDistance(GoldenDistanceParams()).measure(groups[:1])
    assert [(each.count, math.isnan(each.value)) for each in few] == [(0, True), (0, True)]


def test_the_picture_keeps_the_clouds_apart() -> None:
    (shared, _) = GoldenDistance(GoldenDistanceParams()).measure(pairs(cloud(15, 5, 0), cloud(15, 5, 1, at=9.0)))
    gold, sampled = ([point[0] for point in shared.points[name] if point is not None] for name in ("gold", "sampled"))
    assert max(gold) < min(sampled) or max(sampled) < min(gold)


def test_a_plane_by_hand() -> None:
    """The longest axis first, each with its largest loading positive; one dimension leaves the other at 0."""
    found = plane(np.array([[0.0, 2.0], [0.0, -2.0], [1.0, 0.0], [-1.0, 0.0]]))
    assert found == pytest.approx(np.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    assert plane(np.array([[1.0], [3.0]])) == pytest.approx(np.array([[-1.0, 0.0], [1.0, 0.0]]))


def test_folds_hang_on_the_names_alone() -> None:
    names = [f"d{number}" for number in range(11)]
    placed = dict(zip(names, fold_of(names, 5).tolist(), strict=True))
    again = list(reversed(names))
    assert fold_of(again, 5).tolist() == [placed[name] for name in again]
    assert sorted(list(placed.values()).count(fold) for fold in range(5)) == [2, 2, 2, 2, 3]
    assert len(set(fold_of(["a", "b", "a"], 5)[[0, 2]])) == 1


def test_no_side_is_judged_by_a_boundary_drawn_from_the_other() -> None:
    """Each pair lies in a place of its own: a boundary that had seen one side would know the other."""
    one, other = np.eye(12) * 5, np.eye(12) * -5
    hits = held_out_hits(one, other, [f"d{number}" for number in range(12)], folds=12, strength=1.0)
    assert hits.mean() <= 0.5
    assert np.isnan(held_out_hits(one[:1], other[:1], ["d"], folds=5, strength=1.0)).all()


def test_the_boundary_is_where_the_loss_is_least() -> None:
    """The gradient is 0 there, with and without the way through the span of the points."""
    for size in (3, 40):
        points, signs = cloud(16, size, 0), np.repeat([1.0, -1.0], 8)
        weights, bias = logistic(points, signs, strength=0.7)
        pull = -signs / (1 + np.exp(signs * (points @ weights + bias)))
        assert np.abs(points.T @ pull + weights / 0.7).max() < 1e-3 and abs(pull.sum()) < 1e-3


def test_a_share_of_items_right_in_part() -> None:
    measured = share("x", [1.0, 0.5, None, 0.0])
    assert (measured.value, measured.count, measured.items) == (0.5, 3, (1.0, 0.5, None, 0.0))


def test_clouds_of_one_point_have_no_unit() -> None:
    measured = gap(np.zeros((4, 2)), np.ones((4, 2)))
    assert math.isnan(measured.value) and measured.count == 0


@pytest.mark.parametrize("size", [2, 30])
def test_points_without_any_spread(size: int) -> None:
    """All states are one: there is no axis to draw a boundary across."""
    hits = held_out_hits(np.ones((10, size)), np.ones((10, size)), [str(n) for n in range(10)], folds=5, strength=1.0)
    assert hits.mean() == 0.5 and not plane(np.ones((4, size))).any()


def test_axes_by_the_smaller_matrix_are_the_same() -> None:
    points = cloud(6, 9, 0)
    wide, narrow = axes(points), axes(np.concatenate([points, np.zeros((9, 9))]))
    assert wide.shape == narrow.shape == (6, 9)
    assert np.abs(wide @ wide.T - np.eye(6)).max() < 1e-9
    assert np.abs(np.abs((wide * narrow).sum(axis=1)) - 1).max() < 1e-6
    assert np.abs(points - points @ wide.T @ wide).max() < 1e-9
