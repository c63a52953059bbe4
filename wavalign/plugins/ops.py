"""Pure functions on tensors that several losses share. Shapes: B sequences, S streams, T tokens, R rows."""

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

KLEstimator = Literal["k1", "k2", "k3"]
"""Estimators of a divergence from samples, after Schulman, "Approximating KL divergence" (2020)."""
RatioLevel = Literal["token", "sequence"]
"""Whether each token has its own ratio or its sequence's geometric mean."""


@final
@dataclass(frozen=True, slots=True)
class Segments:
    """Which row each position belongs to: padded, where row r is `values[r]`, or packed, where `row_of` says it."""

    row_of: Tensor | None = None
    """[B, S, T] int64, or broadcastable to it; None where rows are padded."""
    count: int = 0
    """Rows of a packed batch; a padded one has B."""

    def sum(self, values: Tensor) -> Tensor:
        """Sums [R] of each row's `values` [B, S, T]; what is one number a row already, [R], stays so."""
        if values.dim() == 1:
            return values
        if self.row_of is None:
            return values.sum(dim=tuple(range(1, values.dim())))
        rows = self.row_of.expand_as(values).flatten()
        return values.new_zeros(self.count).index_add(0, rows, values.flatten())

    def spread(self, rows: Tensor, like: Tensor) -> Tensor:
        """A number a row, [R], at every position of its row: broadcastable to `like` [B, S, T], or [R] itself."""
        if like.dim() == 1:
            return rows
        return rows.view(-1, *(1 for _ in like.shape[1:])) if self.row_of is None else rows[self.row_of]

    def mean(self, values: Tensor, mask: Tensor) -> Tensor:
        """Mean [R] of each row's `values` where bool `mask` holds, both [B, S, T]; 0 where it never holds."""
        return self.sum(torch.where(mask, values, 0.0)) / self.sum(mask.long()).clamp(min=1)


PADDED = Segments()
"""Rows as they are collated: right-padded."""


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


def clamped_ratio(ratio: Tensor, low: float | None, high: float | None) -> Tensor:
    """`ratio` [...] kept within 1 - low and 1 + high; None is no bound."""
    if low is None and high is None:
        return ratio
    return ratio.clamp(None if low is None else 1 - low, None if high is None else 1 + high)


def ratio_of(log_ratio: Tensor, mask: Tensor, segments: Segments, *, level: RatioLevel) -> Tensor:
    """Log-ratios [B, S, T] as they are, or at every token their mean over the row's tokens where bool `mask` holds."""
    if level == "token":
        return log_ratio
    return segments.spread(segments.mean(log_ratio, mask), log_ratio).expand_as(log_ratio)
