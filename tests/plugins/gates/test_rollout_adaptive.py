"""The gate against numbers worked out by hand from arXiv 2604.14932, Eq. 9-12, with slope 5."""

import json
import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from wavalign.errors import PluginError, ResumeError
from wavalign.plugins.gates.rollout_adaptive import RolloutAdaptive, RolloutAdaptiveParams

VECTORS = [
    ((4, 3, 5, 2), 1.25, 0.3125, 0.99995460, 0.24998865),
    ((5, 5, 1, 1), 4.0, 1.0, 0.99995460, 0.79996368),
    ((5, 1, 1, 1), 3.0, 0.75, 0.99995460, 0.59997276),
    ((5, 4, 2, 1), 2.5, 0.625, 0.99995460, 0.49997730),
    ((4, 4, 4, 3), 0.1875, 0.046875, 0.99330715, 0.03724902),
    ((3, 1, 3, 1), 1.0, 0.25, 0.5, 0.10000000),
    ((2, 2, 1, 1), 0.25, 0.0625, 0.00669285, 0.00033464),
    ((3, 3, 3, 3), 0.0, 0.0, 0.5, 0.0),
]
NAN = float("nan")


def gate(**options: float | bool | str) -> RolloutAdaptive:
    return RolloutAdaptive(RolloutAdaptiveParams.model_validate(options))


def rewards(*groups: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(groups, dtype=torch.float64)


@pytest.mark.parametrize(("group", "variance", "information", "direction", "raw"), VECTORS)
def test_raw_value_and_factors(
    group: tuple[float, ...], variance: float, information: float, direction: float, raw: float
) -> None:
    reading = gate().update(rewards(group), progress=0.0)
    assert reading.value == pytest.approx(raw, abs=1e-8)
    assert reading.factors["variance"] == pytest.approx(variance)
    assert reading.factors["information"] == pytest.approx(information)
    assert reading.factors["direction"] == pytest.approx(direction, abs=1e-8)
    assert reading.factors["best_reward"] == max(group)
    assert reading.factors["raw"] == reading.value


def test_smoothing_starts_from_the_first_value() -> None:
    adaptive = gate()
    sequence = [VECTORS[index][0] for index in (0, 1, 7, 2)]
    values = [adaptive.update(rewards(group), progress=0.0).value for group in sequence]
    assert values == pytest.approx([0.24998865, 0.30498615, 0.27448754, 0.30703606], abs=1e-8)


def test_prompts_are_averaged_after_the_product() -> None:
    reading = gate(ema=0.0).update(rewards((5, 5, 1, 1), (3, 3, 3, 3)), progress=0.0)
    assert reading.value == pytest.approx(0.79996368 / 2, abs=1e-8)
    assert reading.factors["groups"] == 2


def test_absent_rewards_count_nowhere() -> None:
    reading = gate().update(rewards((5, 1, NAN, NAN), (NAN, NAN, NAN, NAN), (NAN, 4, NAN, NAN)), progress=0.0)
    first = 0.8 / (1 + math.exp(-10))  # {5, 1}: variance 4; the lone 4 has none; the empty prompt is left out
    assert reading.value == pytest.approx(first / 2, abs=1e-12)
    assert reading.factors["groups"] == 2


def test_without_any_reward_the_value_stays_and_says_so() -> None:
    adaptive = gate()
    nothing = rewards((NAN, NAN), (NAN, NAN))
    assert adaptive.update(nothing, progress=0.0).value == 0.0
    before = adaptive.update(rewards((5, 5, 1, 1)), progress=0.0).value
    assert before == pytest.approx(0.79996368, abs=1e-8)  # the average starts here, not at the 0 before
    reading = adaptive.update(nothing, progress=0.0)
    assert reading.value == before
    assert reading.factors == {"groups": 0.0, "held": 1.0}


def test_information_is_clipped_to_one() -> None:
    assert gate(max_variance=1.0).update(rewards((5, 1)), progress=0.0).factors["information"] == 1.0


def test_its_options_act() -> None:
    reading = gate(ceiling=0.5, threshold=4.0, slope=1.0, max_variance=2.0).update(rewards((5, 3)), progress=0.0)
    assert reading.value == pytest.approx(0.5 * 0.5 / (1 + math.exp(-1)))


def test_state_goes_through_a_checkpoint() -> None:
    first, second = gate(), gate()
    first.update(rewards((4, 3, 5, 2)), progress=0.0)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    group = rewards((5, 5, 1, 1))
    assert first.update(group, progress=0.0) == second.update(group, progress=0.0)
    fresh = gate()
    fresh.load_state_dict(gate().state_dict())
    assert fresh.update(group, progress=0.0).value == pytest.approx(0.79996368, abs=1e-8)
    with pytest.raises(ResumeError, match="previous"):
        fresh.load_state_dict({})


def test_it_asks_for_rewards() -> None:
    assert RolloutAdaptive.needs_rewards
    with pytest.raises(PluginError, match="without rewards"):
        gate().update(None, progress=0.0)


# --- options of our own -----------------------------------------------------------------------------------------------


def by_numpy(
    rewards: npt.NDArray[np.float64], noise: npt.NDArray[np.float64], *, leave_out: bool = False
) -> npt.NDArray[np.float64]:
    """raw [P] of the default gate less the noise, NaN for a prompt that is in no mean; `rewards`, `noise` [P, G]."""
    raw = np.full(len(rewards), np.nan)
    for p, (group, errors) in enumerate(zip(rewards, noise, strict=True)):
        here = ~np.isnan(group)
        if not here.any():
            continue
        known = np.where(np.isnan(errors[here]), 0.0, errors[here])
        n = here.sum()
        variance = max(0.0, np.var(group[here]) - (1 - 1 / n) * known.mean())
        if leave_out and (variance == 0 or np.ptp(group[here]) == 0):
            continue
        raw[p] = 0.8 / (1 + np.exp(-5 * (group[here].max() - 3))) * min(1.0, variance / 4)
    return raw


def drawn(seed: int, *, missing: bool = True) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Rewards and noise [12, 6], some of either missing."""
    draw = np.random.default_rng(seed)
    rewards, noise = draw.uniform(1, 5, (12, 6)), draw.uniform(0, 1.5, (12, 6))
    rewards[0] = 4.0
    if missing:
        rewards[1, :4], rewards[2], noise[3, :3], noise[4] = np.nan, np.nan, np.nan, np.nan
    return rewards, noise


@pytest.mark.parametrize("leave_out", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_noise_is_taken_off_the_variance(seed: int, leave_out: bool) -> None:
    rewards, noise = drawn(seed)
    raw = by_numpy(rewards, noise, leave_out=leave_out)
    options = {"subtract_noise": True, "zero_variance": "leave_out" if leave_out else "count"}
    reading = gate(**options).update(torch.tensor(rewards), progress=0.0, noise=torch.tensor(noise))
    assert reading.value == pytest.approx(np.nanmean(raw), abs=1e-12)
    assert reading.factors["raw"] == reading.value
    assert reading.factors["groups"] == (~np.isnan(raw)).sum()
    if not leave_out:
        here = ~np.isnan(rewards)
        kept = here.any(axis=1)
        own = np.where(here, np.nan_to_num(noise), 0.0).sum(axis=1)[kept] / here.sum(axis=1)[kept]
        assert reading.factors["noise"] == pytest.approx(own.mean(), abs=1e-12)
        assert reading.factors["unstated"] == pytest.approx((3 / 6 + 1) / 11)
        assert reading.factors["observed_variance"] == pytest.approx(np.nanvar(rewards[kept], axis=1).mean())


@pytest.mark.parametrize("size", [2, 4, 8])
def test_what_is_taken_off_is_what_errors_add(size: int) -> None:
    """Groups of known variance, seen through errors of unequal variances: right on average."""
    draw = np.random.default_rng(size)
    true = np.tile([1.0, 5.0], size // 2)
    errors = draw.uniform(0.1, 0.9, size)
    seen = true + draw.standard_normal((200_000, size)) * np.sqrt(errors)
    plain = gate(max_variance=100, threshold=-1e3)  # open, and far from its clip: raw is linear in the variance
    noisy = gate(max_variance=100, threshold=-1e3, subtract_noise=True)
    observed = plain.update(torch.tensor(seen), progress=0.0).factors["variance"]
    noise = torch.tensor(errors).expand(len(seen), size)
    found = noisy.update(torch.tensor(seen), progress=0.0, noise=noise).factors["variance"]
    assert observed == pytest.approx(4 + (1 - 1 / size) * errors.mean(), abs=0.03)
    assert found == pytest.approx(4, abs=0.03)


def test_an_exact_judge_takes_nothing_off() -> None:
    rewards, _ = drawn(1)
    exact = gate(subtract_noise=True).update(torch.tensor(rewards), progress=0.0, noise=torch.zeros(12, 6))
    unknown = gate(subtract_noise=True).update(torch.tensor(rewards), progress=0.0, noise=torch.full((12, 6), NAN))
    plain = gate().update(torch.tensor(rewards), progress=0.0)
    assert exact.value == unknown.value == plain.value
    assert (exact.factors["unstated"], unknown.factors["unstated"]) == (0.0, 1.0)
    assert all(exact.factors[name] == value for name, value in plain.factors.items())


def test_more_noise_than_variance_leaves_none() -> None:
    reading = gate(subtract_noise=True).update(rewards((5, 5, 1, 1)), progress=0.0, noise=torch.full((1, 4), 9.0))
    assert (reading.value, reading.factors["variance"]) == (0.0, 0.0)


def test_groups_without_spread_may_be_in_no_mean() -> None:
    groups = rewards((5, 5, 1, 1), (5, 5, 5, 5), (0.1, 0.1, 0.1, NAN), (NAN, NAN, NAN, NAN))
    reading = gate(zero_variance="leave_out").update(groups, progress=0.0)
    assert reading.value == pytest.approx(0.79996368, abs=1e-8)
    assert (reading.factors["groups"], reading.factors["left_out"]) == (1, 2)
    counted = gate().update(groups, progress=0.0)
    assert counted.value == pytest.approx(0.79996368 / 3, abs=1e-8)
    assert "left_out" not in counted.factors


def test_without_a_group_that_varies_lambda_stays() -> None:
    adaptive = gate(zero_variance="leave_out", per_prompt=True)
    flat = rewards((5, 5), (1, 1))
    assert adaptive.update(flat, progress=0.0).prompts == (0.0, 0.0)
    before = adaptive.update(rewards((5, 1), (5, 5)), progress=0.0)
    reading = adaptive.update(flat, progress=0.0)
    assert reading.prompts == (before.value, before.value)
    assert (reading.value, reading.factors["held"], reading.factors["left_out"]) == (before.value, 1.0, 2.0)


@pytest.mark.parametrize("seed", range(5))
def test_each_prompt_has_its_part_of_lambda(seed: int) -> None:
    """lambda_t raw / mean raw, where the mean over prompts is lambda_t: by NumPy, over three steps."""
    adaptive, previous = gate(per_prompt=True, subtract_noise=True, zero_variance="leave_out", ema=0.6), None
    for step in range(3):
        given, noise = drawn(10 * seed + step)
        raw = by_numpy(given, noise, leave_out=True)
        mean = np.nanmean(raw)
        value = mean if previous is None else 0.4 * mean + 0.6 * previous
        expected = np.where(np.isnan(raw), value, np.minimum(value * np.nan_to_num(raw) / mean, 1.0))
        reading = adaptive.update(torch.tensor(given), progress=0.0, noise=torch.tensor(noise))
        assert reading.prompts == pytest.approx(expected.tolist(), abs=1e-12)
        assert reading.value == pytest.approx(expected.mean(), abs=1e-12)
        assert reading.factors["lowest"] == min(reading.prompts) < reading.factors["highest"] == max(reading.prompts)
        previous = value
    assert adaptive.state_dict() == {"previous": pytest.approx(previous, abs=1e-12)}


def test_a_prompts_own_lambda_is_one_at_most_and_the_rest_has_their_mean() -> None:
    adaptive = gate(per_prompt=True, ceiling=1.0, ema=0.9)
    adaptive.update(rewards((5, 5, 1, 1)), progress=0.0)  # lambda is nearly 1
    reading = adaptive.update(rewards((5, 5, 1, 1), (5, 5, 5, 5), (5, 5, 5, 5)), progress=0.0)
    assert reading.prompts == (1.0, 0.0, 0.0)
    assert reading.value == pytest.approx(1 / 3)
    smoothed = adaptive.state_dict()["previous"]
    assert smoothed == pytest.approx(0.9 + 0.1 / 3, abs=1e-3)  # not clipped


def test_where_no_prompt_calls_for_any_share_all_have_the_same() -> None:
    adaptive = gate(per_prompt=True)
    first = adaptive.update(rewards((5, 5, 1, 1)), progress=0.0).value
    reading = adaptive.update(rewards((5, 5), (1, 1)), progress=0.0)
    assert reading.prompts == pytest.approx((0.9 * first, 0.9 * first))
    assert reading.value == pytest.approx(0.9 * first)


def test_it_asks_for_the_noise_that_it_subtracts() -> None:
    assert gate(subtract_noise=True).needs_noise and not gate().needs_noise
    assert gate(per_prompt=True).per_prompt and not gate().per_prompt
    with pytest.raises(PluginError, match="without the noise"):
        gate(subtract_noise=True).update(rewards((5, 1)), progress=0.0)


def test_a_state_with_options_goes_through_a_checkpoint() -> None:
    options: dict[str, bool | str] = {"per_prompt": True, "subtract_noise": True, "zero_variance": "leave_out"}
    first, second = gate(**options), gate(**options)
    given, noise = (torch.tensor(each) for each in drawn(3))
    first.update(given, progress=0.0, noise=noise)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    again = [each.update(given.flip(0) * 0.9, progress=0.0, noise=noise) for each in (first, second)]
    assert again[0] == again[1] and again[0].prompts
