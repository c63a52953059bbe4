"""Cross-entropy by hand and by finite differences."""

import torch

from tests.loss_inputs import loss_inputs
from wavalign.plugins.losses.cross_entropy import CrossEntropy, CrossEntropyParams


def test_it_is_the_negative_log_probability() -> None:
    loss = CrossEntropy(CrossEntropyParams())
    assert loss.compute(loss_inputs(torch.tensor([[[-0.25, -2.0]]]))).values.tolist() == [[[0.25, 2.0]]]
    assert loss.needs == frozenset()
    assert loss.family == "demonstrations"
    assert loss.regularizers() == ()


def test_gradient() -> None:
    logprobs = -torch.rand(2, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = CrossEntropy(CrossEntropyParams())
    assert torch.autograd.gradcheck(lambda x: loss.compute(loss_inputs(x)).values, logprobs.requires_grad_())
