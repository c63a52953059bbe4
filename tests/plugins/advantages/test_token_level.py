"""Returns, GAE and the divergence in the reward against loops over single numbers in NumPy."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from wavalign.plugins.advantages.gae import Gae, GaeParams
from wavalign.plugins.advantages.return_to_go import ReturnToGo, ReturnToGoParams
from wavalign.plugins.api import StepInputs, StepOutput

Array = npt.NDArray[np.float64]
LENGTHS = (5, 3, 1, 4, 5, 2)
PRESENT = (True, True, True, False, True, True)
GROUP = (0, 0, 0, 1, 1, 2)
CUT = (False, True, False, False, True, False)
NUMBERS = np.random.default_rng(4)


def table() -> Array:
    """Numbers at the steps, 0 behind them."""
    rows = NUMBERS.standard_normal((len(LENGTHS), max(LENGTHS)))
    return np.where(np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None], rows, 0.0)


REWARDS, VALUES, LOG_RATIO = table(), table(), 0.3 * table()
REWARDS[3] = 0  # what the engine gives of an answer without a reward


def inputs(**changes: Any) -> StepInputs:
    given: dict[str, Any] = {
        "rewards": torch.tensor(REWARDS),
        "mask": torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None],
        "present": torch.tensor(PRESENT),
        "group": torch.tensor(GROUP),
        "cut": torch.tensor(CUT),
        "values": torch.tensor(VALUES),
        "log_ratio": torch.tensor(LOG_RATIO),
    }
    return StepInputs(**{**given, **changes})


def gae(given: StepInputs | None = None, **options: Any) -> StepOutput:
    return Gae(GaeParams.model_validate(options)).compute_steps(given or inputs())


def to_go(given: StepInputs | None = None, **options: Any) -> StepOutput:
    return ReturnToGo(ReturnToGoParams.model_validate(options)).compute_steps(given or inputs())


def penalised(coefficient: float, estimator: Callable[[float], float]) -> Array:
    found = REWARDS.copy()
    for n, length in enumerate(LENGTHS):
        for t in range(length if PRESENT[n] else 0):
            found[n, t] -= coefficient * estimator(LOG_RATIO[n, t])
    return found


def returns_by_loop(rewards: Array, gamma: float) -> Array:
    found = np.zeros_like(rewards)
    for n, length in enumerate(LENGTHS):
        for t in range(length if PRESENT[n] else 0):
            found[n, t] = sum(gamma ** (later - t) * rewards[n, later] for later in range(t, length))
    return found


def gae_by_loop(rewards: Array, gamma: float, lam: float, *, bootstrap: bool = False) -> Array:
    found = np.zeros_like(rewards)
    for n, length in enumerate(LENGTHS):
        advantage = 0.0
        for t in reversed(range(length if PRESENT[n] else 0)):
            last = VALUES[n, t] if bootstrap and CUT[n] else 0.0
            after = VALUES[n, t + 1] if t + 1 < length else last
            advantage = rewards[n, t] + gamma * after - VALUES[n, t] + gamma * lam * advantage
            found[n, t] = advantage
    return found


def white_by_loop(values: Array, valid: tuple[bool, ...] = PRESENT) -> Array:
    here = [(n, t) for n, length in enumerate(LENGTHS) for t in range(length if valid[n] else 0)]
    numbers = np.array([values[place] for place in here])
    found = np.zeros_like(values)
    for place in here:
        found[place] = (values[place] - numbers.mean()) / math.sqrt(numbers.var(ddof=1) + 1e-8)
    return found


def close(found: Tensor, wanted: Array) -> None:
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.7), (1.0, 1.0), (0.97, 0.0)])
def test_gae(gamma: float, lam: float) -> None:
    found = gae(gamma=gamma, lam=lam, whiten=False)
    wanted = gae_by_loop(REWARDS, gamma, lam)
    close(found.advantages, wanted)
    close(found.returns, np.where(np.array(PRESENT)[:, None], wanted + VALUES, 0.0))
    assert found.valid.tolist() == list(PRESENT)
    white = gae(gamma=gamma, lam=lam)
    close(white.advantages, white_by_loop(wanted))
    close(white.returns, found.returns.numpy())  # a critic learns what is earned, not what is white


def test_lambda_one_is_the_return_less_the_value() -> None:
    found = gae(gamma=0.9, lam=1, whiten=False)
    close(found.returns, returns_by_loop(REWARDS, 0.9))


def test_an_answer_that_was_cut_off_is_worth_more_where_it_is_bootstrapped() -> None:
    found = gae(gamma=0.9, lam=0.8, whiten=False, truncated="bootstrap")
    close(found.advantages, gae_by_loop(REWARDS, 0.9, 0.8, bootstrap=True))
    ended = gae(gamma=0.9, lam=0.8, whiten=False)
    differ = (found.advantages != ended.advantages).any(dim=1)
    assert differ.tolist() == [cut and there for cut, there in zip(CUT, PRESENT, strict=True)]


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_return_to_go(gamma: float) -> None:
    wanted = returns_by_loop(REWARDS, gamma)
    found = to_go(gamma=gamma)
    close(found.advantages, wanted)
    close(found.returns, wanted)
    assert found.valid.tolist() == list(PRESENT)
    close(to_go(gamma=gamma, whiten=True).advantages, white_by_loop(wanted))


def test_a_baseline_of_the_group() -> None:
    """Group 0 has three answers, 1 has one with a reward, 2 has one: the last two have nothing to compare with."""
    whole = returns_by_loop(REWARDS, 1.0)
    valid = (True, True, True, False, False, False)
    for kind in ("group", "step"):
        found = to_go(baseline=kind)
        assert found.valid.tolist() == list(valid)
        wanted = np.zeros_like(whole)
        for n, length in enumerate(LENGTHS):
            for t in range(length if valid[n] else 0):
                mean = np.mean([whole[other, 0 if kind == "group" else t] for other in range(3)])
                wanted[n, t] = whole[n, t] - mean
        close(found.advantages, wanted)
        close(to_go(baseline=kind, whiten=True).advantages, white_by_loop(wanted, valid))


ESTIMATORS: dict[str, Callable[[float], float]] = {
    "k1": lambda ratio: ratio,
    "k2": lambda ratio: ratio * ratio / 2,
    "k3": lambda ratio: math.exp(-ratio) - 1 + ratio,
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_divergence_is_paid_at_every_step(estimator: str) -> None:
    kl = {"coefficient": 0.2, "estimator": estimator}
    rewards = penalised(0.2, ESTIMATORS[estimator])
    close(to_go(kl=kl, gamma=0.9).advantages, returns_by_loop(rewards, 0.9))
    found = gae(kl=kl, whiten=False)
    close(found.advantages, gae_by_loop(rewards, 1.0, 0.95))
    sums = [sum(ESTIMATORS[estimator](LOG_RATIO[n, t]) for t in range(length)) for n, length in enumerate(LENGTHS)]
    assert found.metrics == {"kl": pytest.approx(np.mean(sums)), "kl_coefficient": 0.2}


def test_what_is_needed() -> None:
    assert ReturnToGo(ReturnToGoParams()).needs == frozenset()
    assert Gae(GaeParams()).needs == {"old_values"}
    kl = {"kl": {"coefficient": 0.1}}
    assert ReturnToGo(ReturnToGoParams.model_validate(kl)).needs == {"ref_logprobs"}
    assert Gae(GaeParams.model_validate(kl)).needs == {"old_values", "ref_logprobs"}


def test_the_coefficient_follows_its_target() -> None:
    """By a loop over the controller's own formula; the error is cut at a fifth on both sides."""
    options = {"kl": {"coefficient": 0.1, "target": 0.5, "horizon": 20}}
    plugin = ReturnToGo(ReturnToGoParams.model_validate(options))
    coefficient = 0.1
    for scale in (0.0, 1.0, 4.0, 40.0, 1.2):
        found = plugin.compute_steps(inputs(log_ratio=torch.tensor(LOG_RATIO).abs() * scale))
        mean = np.abs(LOG_RATIO).sum() * scale / 6
        assert found.metrics == {"kl": pytest.approx(mean), "kl_coefficient": pytest.approx(coefficient)}
        coefficient *= 1 + min(max(mean / 0.5 - 1, -0.2), 0.2) * 6 / 20
    assert plugin.state_dict() == {"kl_coefficient": pytest.approx(coefficient)}
    other = ReturnToGo(ReturnToGoParams.model_validate(options))
    other.load_state_dict(plugin.state_dict())
    assert torch.equal(other.compute_steps(inputs()).advantages, plugin.compute_steps(inputs()).advantages)
    assert Gae(GaeParams()).state_dict() == {}  # what stays as it is need not be remembered


@pytest.mark.parametrize("make", [gae, to_go])
def test_nothing_present_is_nothing_to_learn_from(make: Callable[..., StepOutput]) -> None:
    nobody = inputs(present=torch.zeros(6, dtype=torch.bool), rewards=torch.zeros(6, 5, dtype=torch.float64))
    found = make(nobody, whiten=True, kl={"coefficient": 0.1, "target": 1.0})
    assert not found.valid.any()
    assert not found.advantages.any()
    assert not found.returns.any()


def test_a_single_step_is_white() -> None:
    one = inputs(present=torch.tensor([False, False, True, False, False, False]))
    assert not to_go(one, whiten=True).advantages.any()


def test_options_out_of_range() -> None:
    for options in ({"gamma": 1.1}, {"lam": -0.1}, {"kl": {"coefficient": -1}}, {"kl": {"target": 0}}):
        with pytest.raises(ValidationError):
            GaeParams.model_validate(options)
