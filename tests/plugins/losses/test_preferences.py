"""Offline preference losses by NumPy and by hand, on packed rows, and what their options exclude.

`tests/parity/test_trl_preferences.py` holds those that TRL has against TRL.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from benchmarks.parity.losses import CASES, LENGTHS, PAIRS, Shared, ours
from tests.loss_inputs import loss_inputs
from wavalign.plugins.api import Loss, LossInputs, Regularizer
from wavalign.plugins.losses.apo_zero import APOZero
from wavalign.plugins.losses.cpo import CPO
from wavalign.plugins.losses.dpo import DPO
from wavalign.plugins.losses.kto import KTO
from wavalign.plugins.losses.orpo import ORPO
from wavalign.plugins.losses.rpo import RPO
from wavalign.plugins.losses.simpo import SimPO
from wavalign.plugins.ops import Segments


def made(loss: type[Loss], **options: Any) -> Loss:
    return loss(loss.Params.model_validate(options))


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


class Numbers:
    """The shared numbers as sums and means of rows, in NumPy: `w` chosen, `l` rejected."""

    def __init__(self, *, mean: bool = False) -> None:
        shared = Shared()
        policy, reference = shared.policy.detach().numpy(), shared.reference.numpy()
        divisor = np.array(LENGTHS) if mean else np.ones(2 * PAIRS)
        rows = [policy[r, :n].sum() for r, n in enumerate(LENGTHS)] / divisor
        ratios = [(policy - reference)[r, :n].sum() for r, n in enumerate(LENGTHS)] / divisor
        self.w, self.l = rows[:PAIRS], rows[PAIRS:]
        self.ratio_w, self.ratio_l = ratios[:PAIRS], ratios[PAIRS:]
        self.gap = self.ratio_w - self.ratio_l
        scores = shared.scores.numpy()
        self.stated = scores[:PAIRS] - scores[PAIRS:]
        self.point = float(shared.point())


def conservative(n: Numbers) -> Any:
    return -0.8 * np.log(sigmoid(0.4 * n.gap)) - 0.2 * np.log(sigmoid(-0.4 * n.gap))


def robust(n: Numbers) -> Any:
    return (-0.8 * np.log(sigmoid(0.4 * n.gap)) + 0.2 * np.log(sigmoid(-0.4 * n.gap))) / 0.6


def reward_aware(n: Numbers) -> Any:
    p, q = sigmoid(1.5 * n.stated), sigmoid(0.4 * n.gap)
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


def odds(n: Numbers) -> Any:
    p, q = np.exp(n.w), np.exp(n.l)
    return -0.3 * np.log(sigmoid(np.log(p / (1 - p)) - np.log(q / (1 - q))))


def unpaired(n: Numbers) -> Any:
    wanted = 1.2 * (1 - sigmoid(0.4 * (n.ratio_w - n.point)))
    return np.concatenate([wanted, 0.7 * (1 - sigmoid(0.4 * (n.point - n.ratio_l)))])


BY_NUMPY: dict[str, tuple[Loss, bool, Callable[[Numbers], Any]]] = {
    "sigmoid": (made(DPO, beta=0.4), False, lambda n: -np.log(sigmoid(0.4 * n.gap))),
    "conservative": (made(DPO, variant="conservative", beta=0.4, label_smoothing=0.2), False, conservative),
    "robust": (made(DPO, variant="robust", beta=0.4, label_smoothing=0.2), False, robust),
    "hinge": (made(DPO, variant="hinge", beta=0.4), False, lambda n: np.maximum(0, 1 - 0.4 * n.gap)),
    "ipo": (made(DPO, variant="ipo", beta=0.4), False, lambda n: (n.gap - 1.25) ** 2),
    "ipo per token": (
        made(DPO, variant="ipo", beta=0.4, length_normalized=True), True, lambda n: (n.gap - 1.25) ** 2
    ),
    "apo_zero": (
        made(APOZero, beta=0.4), False, lambda n: 1 - sigmoid(0.4 * n.ratio_w) + sigmoid(0.4 * n.ratio_l)
    ),
    "apo_zero per token": (
        made(APOZero, beta=0.4, length_normalized=True), True,
        lambda n: 1 - sigmoid(0.4 * n.ratio_w) + sigmoid(0.4 * n.ratio_l),
    ),
    "rpo kl": (made(RPO, beta=0.4, eta=1.5), False, reward_aware),
    "rpo squared": (
        made(RPO, distance="squared", beta=0.4, eta=1.5), False, lambda n: (0.4 * n.gap - 1.5 * n.stated) ** 2
    ),
    "simpo": (made(SimPO, beta=2.5, margin=0.5), True, lambda n: -np.log(sigmoid(2.5 * (n.w - n.l) - 0.5))),
    "cpo": (made(CPO, beta=0.4, nll=0), False, lambda n: -np.log(sigmoid(0.4 * (n.w - n.l)))),
    "orpo": (made(ORPO, beta=0.3, nll=0), True, odds),
    "kto": (made(KTO, beta=0.4, desirable_weight=1.2, undesirable_weight=0.7), False, unpaired),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_NUMPY)
def test_value_by_numpy(name: str) -> None:
    loss, mean, formula = BY_NUMPY[name]
    value, _ = ours(Shared(), loss)
    assert float(value.detach()) == pytest.approx(float(np.mean(formula(Numbers(mean=mean)))), abs=1e-9)


@pytest.mark.parametrize("name", BY_NUMPY)
def test_gradient_by_finite_differences(name: str) -> None:
    loss = BY_NUMPY[name][0]
    shared = Shared()
    (gradient,) = torch.autograd.grad(ours(shared, loss)[0], shared.policy)
    assert bool((gradient[~shared.mask] == 0).all())
    for row, token in ((0, 0), (2, 0), (PAIRS, 1), (PAIRS + 4, 8)):
        values = []
        for step in (1e-6, -1e-6):
            moved = Shared()
            with torch.no_grad():
                moved.policy[row, token] += step
            values.append(float(ours(moved, loss)[0].detach()))
        assert float(gradient[row, token]) == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-7)


def packed(inputs: LossInputs) -> LossInputs:
    """The same rows behind one another in one."""

    def flat(tensor: Tensor) -> Tensor:
        return tensor.reshape(1, 1, -1) if tensor.shape == inputs.logprobs.shape else tensor

    rows, _, length = inputs.logprobs.shape
    segments = Segments(torch.arange(rows).repeat_interleave(length).view(1, 1, -1), count=rows)
    columns = {name: flat(each) for name, each in inputs.columns.items()}
    return LossInputs(flat(inputs.logprobs), flat(inputs.mask), inputs.group, inputs.member, columns, segments)


@pytest.mark.parametrize("name", BY_NUMPY)
def test_packed_rows_are_the_same(name: str) -> None:
    loss = BY_NUMPY[name][0]
    inputs = Shared().inputs(loss.needs)
    padded, together = loss.compute(inputs), loss.compute(packed(inputs))
    torch.testing.assert_close(together.values, padded.values, rtol=1e-12, atol=1e-12)
    for key, value in padded.metrics.items():
        torch.testing.assert_close(together.metrics[key], value, rtol=1e-12, atol=1e-12)


def test_metrics_by_hand() -> None:
    """Two pairs of two tokens: log-ratios +0.5 and -0.25 a token, then -1 and +1."""
    logprobs = torch.tensor([[[-1.0, -1.0]], [[-2.0, -2.0]], [[-3.0, -3.0]], [[-1.0, -1.0]]], requires_grad=True)
    reference = torch.tensor([[[-1.5, -1.5]], [[-1.75, -1.75]], [[-2.0, -2.0]], [[-2.0, -2.0]]])
    inputs = loss_inputs(
        logprobs, group=torch.tensor([0, 0, 1, 1]), member=torch.tensor([0, 1, 0, 1]), ref_logprobs=reference
    )
    output = made(DPO, beta=0.5).compute(inputs)
    expected = {
        "margin": [0.75, -2.0], "accuracy": [1.0, 0.0], "chosen_reward": [0.5, -1.0], "rejected_reward": [-0.25, 1.0],
        "chosen_logprob": [-2.0, -6.0], "rejected_logprob": [-4.0, -2.0], "chosen_drift": [1.0, -2.0],
        "rejected_drift": [-0.5, 2.0],
    }  # fmt: skip
    assert {key: value.tolist() for key, value in output.metrics.items()} == expected
    assert not any(value.requires_grad for value in output.metrics.values())


def test_without_a_reference_there_is_no_drift() -> None:
    names = made(SimPO).compute(Shared().inputs(frozenset())).metrics.keys()
    assert {"margin", "chosen_logprob"} <= names
    assert not {name for name in names if name.endswith("drift")}


def test_the_reference_point_has_no_gradient_and_is_per_token_where_ratios_are() -> None:
    assert made(KTO).needs == {"ref_logprobs", "reference_point"}
    assert made(KTO, length_normalized=True).needs == {"ref_logprobs", "mean_reference_point"}


def test_what_is_imitated_beside_a_preference_is_the_chosen_side() -> None:
    expected = Regularizer("nll", "cross_entropy", {}, tokens=None, weight=0.4, members=(0,))
    assert made(CPO, nll=0.4).regularizers() == made(ORPO, nll=0.4).regularizers() == (expected,)
    assert made(CPO, nll=0).regularizers() == made(ORPO, nll=0).regularizers() == ()


def test_the_odds_of_certainty_are_finite() -> None:
    logprobs = torch.zeros(2, 1, 3, dtype=torch.float64, requires_grad=True)
    both = loss_inputs(logprobs, group=torch.tensor([0, 0]), member=torch.tensor([0, 1]))
    values = made(ORPO).compute(both).values
    assert values.isfinite().all()
    assert torch.autograd.grad(values.sum(), logprobs)[0].isfinite().all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"variant": "robust"}, "needs label_smoothing"),
        ({"variant": "hinge", "label_smoothing": 0.1}, "smooths no labels"),
        ({"label_smoothing": 0.1}, "smooths no labels"),
        ({"variant": "robust", "label_smoothing": 0.5}, "less than 0.5"),
        ({"beta": 0}, "greater than 0"),
        ({"variant": "dpo"}, "sigmoid"),
    ],
)
def test_options_that_say_nothing_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        made(DPO, **options)


def test_every_case_of_trl_is_a_loss_on_pairs() -> None:
    assert {loss.family for _, loss in CASES.values()} == {"pairs"}
