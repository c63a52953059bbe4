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


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_weighed_by_the_ratio_its_gradient_is_that_of_the_divergence(estimator: KLEstimator) -> None:
    """Over all tokens, each as often as the earlier policy samples it."""
    generator = torch.Generator().manual_seed(3)
    scores, old, reference = torch.randn(3, 7, dtype=torch.float64, generator=generator)
    scores, old, reference = scores.requires_grad_(), old.log_softmax(0), reference.log_softmax(0)
    policy = scores.log_softmax(0)
    loss = KL(KLParams(estimator=estimator, unbiased=True))
    assert loss.needs == {"ref_logprobs", "old_logprobs"}
    shape = (7, 1, 1)
    given = loss_inputs(policy.view(shape), ref_logprobs=reference.view(shape), old_logprobs=old.view(shape))
    expected = (old.exp() * loss.compute(given).values.flatten()).sum()
    exact = (policy.exp() * (policy - reference)).sum()
    torch.testing.assert_close(expected, exact, rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad(each, scores, retain_graph=True)[0] for each in (expected, exact))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_a_missing_reference_is_an_error() -> None:
    with pytest.raises(PluginError, match="ref_logprobs"):
        KL(KLParams()).compute(loss_inputs(torch.zeros(1, 1, 1)))
