"""Pure functions on tensors that several losses share. Shapes: B sequences, S streams, T tokens."""

from typing import Literal

import torch
from torch import Tensor

KLEstimator = Literal["k1", "k2", "k3"]
"""Estimators of a divergence from samples, after Schulman, "Approximating KL divergence" (2020)."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of each sequence's `values` [B, S, T] where bool `mask` [B, S, T] holds -> [B]; 0 where it never holds."""
    total = torch.where(mask, values, 0.0).sum(dim=(1, 2))
    return total / mask.sum(dim=(1, 2)).clamp(min=1)


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: KLEstimator) -> Tensor:
    """Estimate KL(policy || reference) at each sampled token, with d = log ref - log policy.

    `k1`: -d, unbiased, but its gradient averages to zero. `k2`: d^2 / 2, biased and its gradient is that of the
    divergence on-policy. `k3`: exp(d) - d - 1, unbiased and never negative.
    """
    difference = ref_logprobs - logprobs
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return difference.square() / 2
    return torch.expm1(difference) - difference


def clipped_surrogate(ratio: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """Pessimistic surrogate min(r A, clip(r, 1 - low, 1 + high) A), to be maximised; same shape as `ratio`."""
    return torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
