"""Advantages of whole answers against loops over single numbers in NumPy, absent rewards among them."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import ValidationError

from wavalign.plugins.advantages.batch_mean import BatchMean, BatchMeanParams
from wavalign.plugins.advantages.group_normalized import GroupNormalized, GroupNormalizedParams
from wavalign.plugins.advantages.moving_baseline import MovingBaseline, MovingBaselineParams
from wavalign.plugins.advantages.rloo import LeaveOneOut, LeaveOneOutParams
from wavalign.plugins.api import Advantage, AdvantageInputs, AdvantageOutput

Array = npt.NDArray[np.float64]
NAN, EPS = float("nan"), 1e-4
NUMBERS = np.random.default_rng(11)
WHOLE = NUMBERS.normal(2, 1.5, (5, 4))
REWARDS = WHOLE.copy()
REWARDS[0, 1] = REWARDS[1, :] = REWARDS[2, 1:] = NAN  # of a group one, all, all but one
PARTS = {"words": NUMBERS.normal(1, 0.2, (5, 4)), "sound": NUMBERS.normal(3, 4, (5, 4))}
WEIGHTS = {"words": 0.7, "sound": 0.3}


def inputs(rewards: Array = REWARDS, **parts: Array) -> AdvantageInputs:
    return AdvantageInputs(torch.tensor(rewards), {name: torch.tensor(each) for name, each in parts.items()}, WEIGHTS)


def close(found: AdvantageOutput, wanted: Array) -> None:
    """Values where there are some, and 0 and invalid where `wanted` is NaN."""
    np.testing.assert_allclose(found.values.numpy(), np.nan_to_num(wanted), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(found.valid.numpy(), ~np.isnan(wanted))


def others(rewards: Array) -> Array:
    """Reward less the mean of the other answers that have one."""
    wanted = np.full_like(rewards, NAN)
    for p, group in enumerate(rewards):
        for i, reward in enumerate(group):
            rest = [each for j, each in enumerate(group) if j != i and not np.isnan(each)]
            if rest and not np.isnan(reward):
                wanted[p, i] = reward - np.mean(rest)
    return wanted


def white(values: Array) -> Array:
    """Mean 0 and deviation 1 of all that is there."""
    scaled: Array = (values - np.nanmean(values)) / (np.nanstd(values, ddof=1) + EPS)
    return scaled


def grouped(rewards: Array, ddof: int = 1) -> Array:
    """Relative to mean and deviation of the group."""
    wanted = np.full_like(rewards, NAN)
    for p, group in enumerate(rewards):
        there = group[~np.isnan(group)]
        if len(there) >= 2:
            wanted[p] = (group - there.mean()) / (there.std(ddof=ddof) + EPS)
    return wanted


def made(kind: type[Advantage], params: type[Any], **options: object) -> Advantage:
    return kind(params.model_validate(options))


def test_rloo_compares_with_the_others() -> None:
    close(made(LeaveOneOut, LeaveOneOutParams).compute(inputs()), others(REWARDS))
    close(made(LeaveOneOut, LeaveOneOutParams, whiten=True).compute(inputs()), white(others(REWARDS)))
    by_hand = made(LeaveOneOut, LeaveOneOutParams).compute(inputs(np.array([[3.0, 1.0, 2.0]]))).values
    assert by_hand.tolist() == [[1.5, -1.5, 0.0]]


@pytest.mark.parametrize("std", ["population", "sample"])
def test_group_normalized_as_in_numpy(std: str) -> None:
    ddof = 1 if std == "sample" else 0
    close(made(GroupNormalized, GroupNormalizedParams, std=std).compute(inputs()), grouped(REWARDS, ddof))
    whitened = made(GroupNormalized, GroupNormalizedParams, std=std, whiten=True).compute(inputs())
    close(whitened, white(grouped(REWARDS, ddof)))


@pytest.mark.parametrize(("std", "ddof"), [("population", 0), ("sample", 1)])
def test_the_deviation_of_the_batch(std: str, ddof: int) -> None:
    """Centred within the group, scaled by all rewards of the step, a lone one among them."""
    wanted = np.where(np.isnan(grouped(REWARDS)), NAN, REWARDS - np.nanmean(np.nan_to_num(REWARDS), axis=1)[:, None])
    for p in range(len(REWARDS)):
        there = REWARDS[p][~np.isnan(REWARDS[p])]
        if len(there):
            wanted[p] += np.nan_to_num(REWARDS[p]).mean() - there.mean()
    wanted /= np.nanstd(REWARDS, ddof=ddof) + EPS
    close(made(GroupNormalized, GroupNormalizedParams, std=std, spread="batch").compute(inputs()), wanted)


def test_each_reward_of_its_own_then_the_batch_is_gdpo() -> None:
    """Weighted sum of the rewards, each relative to its group; then mean 0 and deviation 1 over the step."""
    total = 0.7 * grouped(PARTS["words"]) + 0.3 * grouped(PARTS["sound"])
    options: dict[str, object] = {"per_reward": True, "std": "sample"}
    close(made(GroupNormalized, GroupNormalizedParams, **options).compute(inputs(WHOLE, **PARTS)), total)
    whitened = made(GroupNormalized, GroupNormalizedParams, whiten=True, **options).compute(inputs(WHOLE, **PARTS))
    close(whitened, white(total))


def test_a_reward_that_is_missing_leaves_the_word_to_the_others() -> None:
    words, sound = PARTS["words"].copy(), PARTS["sound"].copy()
    sound[0, 0] = sound[1, :3] = words[2, 2] = sound[2, 2] = NAN
    total = WHOLE.copy()
    total[2, 2] = NAN
    numerator = 0.7 * np.nan_to_num(grouped(words)) + 0.3 * np.nan_to_num(grouped(sound))
    weight = 0.7 * ~np.isnan(grouped(words)) + 0.3 * ~np.isnan(grouped(sound))
    assert weight[1, 3] == 0.7, "the only value of its group compares with nothing"
    found = made(GroupNormalized, GroupNormalizedParams, per_reward=True, std="sample")
    close(found.compute(inputs(total, words=words, sound=sound)), np.where(weight > 0, numerator, NAN) / weight)


def test_a_reward_with_a_narrow_spread_counts_as_much_as_a_wide_one() -> None:
    """What the method is for: as one sum, sound would decide alone."""
    words, sound = np.array([[1.0, 1.1, 1.0, 1.1]]), np.array([[0.0, 0.0, 40.0, 40.0]])
    each = made(GroupNormalized, GroupNormalizedParams, per_reward=True).compute(
        AdvantageInputs(
            torch.tensor((words + sound) / 2),
            {"words": torch.tensor(words), "sound": torch.tensor(sound)},
            {"words": 1.0, "sound": 1.0},
        )
    )
    summed = made(GroupNormalized, GroupNormalizedParams).compute(inputs((words + sound) / 2))
    assert each.values[0].tolist() == pytest.approx([-1, 0, 0, 1], abs=2e-3)
    assert summed.values[0, 1] < -0.9


def test_the_mean_of_the_step() -> None:
    close(made(BatchMean, BatchMeanParams).compute(inputs()), REWARDS - np.nanmean(REWARDS))
    close(made(BatchMean, BatchMeanParams, whiten=True).compute(inputs()), white(REWARDS))


def test_a_moving_baseline_follows_and_remembers() -> None:
    """b: 2 of the first step; 0.75 x 2 + 0.25 x 2, then 0.75 x 2 + 0.25 x 6 = 3."""
    steps = [np.array([[1.0, 3.0, NAN]]), np.array([[5.0, 7.0, NAN]]), np.array([[4.0, 4.0, 4.0]])]
    baseline = made(MovingBaseline, MovingBaselineParams, momentum=0.75)
    close(baseline.compute(inputs(steps[0])), steps[0] - 2)
    close(baseline.compute(inputs(steps[1])), steps[1] - 2)
    state = baseline.state_dict()
    assert state == {"baseline": 3.0}
    again = made(MovingBaseline, MovingBaselineParams, momentum=0.75)
    again.load_state_dict(state)
    close(again.compute(inputs(steps[2])), steps[2] - 3)
    assert made(MovingBaseline, MovingBaselineParams).state_dict() == {"baseline": None}


def test_what_is_far_from_the_baseline_is_brought_to_mean_0_all_the_same() -> None:
    baseline = made(MovingBaseline, MovingBaselineParams, whiten=True)
    baseline.compute(inputs(REWARDS - 50))
    close(baseline.compute(inputs()), white(REWARDS))


def test_a_step_without_rewards_leaves_the_baseline_alone() -> None:
    baseline = made(MovingBaseline, MovingBaselineParams)
    nothing = np.full((2, 2), NAN)
    for _ in range(2):
        close(baseline.compute(inputs(nothing)), nothing)
    assert baseline.state_dict() == {"baseline": None}
    baseline.compute(inputs(np.array([[4.0]])))
    close(baseline.compute(inputs(nothing)), nothing)
    assert baseline.state_dict() == {"baseline": 4.0}


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (LeaveOneOut, LeaveOneOutParams),
        (GroupNormalized, GroupNormalizedParams),
        (BatchMean, BatchMeanParams),
        (MovingBaseline, MovingBaselineParams),
    ],
)
@pytest.mark.parametrize("whiten", [False, True])
def test_what_does_not_vary_has_no_advantage(kind: type[Advantage], params: type[Any], whiten: bool) -> None:
    found = made(kind, params, whiten=whiten).compute(inputs(np.full((2, 3), 0.1)))
    assert found.values.abs().max() < 1e-9
    assert found.valid.all()
    nothing = made(kind, params, whiten=whiten).compute(inputs(np.full((2, 3), NAN)))
    assert not nothing.valid.any() and (nothing.values == 0).all()


@pytest.mark.parametrize("options", [{"momentum": 1}, {"momentum": -0.1}, {"eps": 0}, {"whiten": 2}])
def test_nonsense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MovingBaselineParams.model_validate(options)
