"""The divergence from the reference, by hand and by finite differences."""

import math

import pytest
import torch

from tests.loss_inputs import loss_inputs
from wavalign.errors import PluginError
from wavalign.plugins.losses.kl import KL, KLParams
from wavalign.plugins.ops import KLEstimator


@pytest.mark.parametrize(
    ("estimator", "value"), [("k1", 0.5), ("k2", 0.125), ("k3", math.exp(-0.5) - 0.5), (None, math.exp(-0.5) - 0.5)]
)
def test_values_by_hand(estimator: KLEstimator | None, value: float) -> None:
    params = KLParams() if estimator is None else KLParams(estimator=estimator)
    loss = KL(params)
    given = loss_inputs(torch.full((1, 1, 2), -1.0), ref_logprobs=torch.full((1, 1, 2), -1.5))
    torch.testing.assert_close(loss.compute(given).values, torch.full((1, 1, 2), value))
    assert loss.needs == {"ref_logprobs"}


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_gradients_by_finite_differences(estimator: KLEstimator) -> None:
    generator = torch.Generator().manual_seed(1)
    policy, reference = -torch.rand(2, 2, 1, 3, dtype=torch.float64, generator=generator)
    loss = KL(KLParams(estimator=estimator))

    def values(logprobs: torch.Tensor) -> torch.Tensor:
        return loss.compute(loss_inputs(logprobs, ref_logprobs=reference)).values

    assert torch.autograd.gradcheck(values, policy.clone().requires_grad_())


def test_a_missing_reference_is_an_error() -> None:
    with pytest.raises(PluginError, match="ref_logprobs"):
        KL(KLParams()).compute(loss_inputs(torch.zeros(1, 1, 1)))
