"""Shared formulas, by hand."""

import math

import pytest
import torch

from wavalign.errors import PluginError
from wavalign.plugins.ops import clipped_surrogate, given, kl_estimate, masked_mean


def test_given_hands_over_or_names_what_is_missing() -> None:
    tensor = torch.ones(1)
    assert given(tensor, "advantages") is tensor
    with pytest.raises(PluginError, match="advantages"):
        given(None, "advantages")


def test_masked_mean_is_per_sequence_and_zero_without_tokens() -> None:
    values = torch.tensor([[[1.0, 2.0, 9.0]], [[5.0, 6.0, 7.0]]])
    mask = torch.tensor([[[True, True, False]], [[False, False, False]]])
    assert masked_mean(values, mask).tolist() == [1.5, 0.0]


def test_masked_mean_ignores_what_is_not_a_number_outside_the_mask() -> None:
    values = torch.tensor([[[2.0, float("nan")]]])
    assert masked_mean(values, torch.tensor([[[True, False]]])).tolist() == [2.0]


def test_kl_estimates_by_hand() -> None:
    logprobs, reference = torch.tensor([-1.0], dtype=torch.float64), torch.tensor([-1.5], dtype=torch.float64)
    assert kl_estimate(logprobs, reference, "k1").item() == pytest.approx(0.5)
    assert kl_estimate(logprobs, reference, "k2").item() == pytest.approx(0.125)
    assert kl_estimate(logprobs, reference, "k3").item() == pytest.approx(math.exp(-0.5) + 0.5 - 1)


def test_k1_and_k3_average_to_the_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.randn(2, 7, generator=generator, dtype=torch.float64).log_softmax(dim=1)
    exact = (policy.exp() * (policy - reference)).sum()
    for estimator in ("k1", "k3"):
        expected = (policy.exp() * kl_estimate(policy, reference, estimator)).sum()
        assert expected.item() == pytest.approx(exact.item(), rel=1e-12)


def test_clipped_surrogate_takes_the_smaller_side() -> None:
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1])
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    expected = torch.tensor([1.3, -1.5, 0.5, -0.8, 2.2])
    torch.testing.assert_close(clipped_surrogate(ratio, advantages, 0.2, 0.3), expected)
