"""From unreduced values to the one number whose gradient is taken.

loss = sum over terms of share * weight * aggregate(values), every aggregate over the global batch of a step: all its
micro-batches on all ranks. What an aggregate divides by follows from masks alone, so it is counted and summed over
ranks before the first backward pass, and a micro-batch adds its part of the numerator:

    token      sum of w v                              / number of tokens with w > 0
    sequence   sum over rows of (sum w v) / (sum w)    / number of rows
    fixed      sum of w v                              / (number of rows * fixed length)
    sum        sum of w v                              / number of rows

w is the mask's weight of a token, 0 in rows the term does not use: those of the other kind and those without a reward.
`sequence` is the mean of WavAlign's released code, `sum` Eq. 3 of arXiv 2604.14932, `fixed` that of Dr. GRPO (arXiv
2503.20783). A row none of whose tokens are selected adds 0 and still counts as a row.

A backend that averages over micro-batches and ranks is undone here, by `backend_divisor`, and nowhere else.
Sums over rows are segment sums, so that padded and packed rows are one path. Shapes: B sequences, S streams, T tokens,
R rows (B where they are padded).
"""

import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from wavalign.engine.compile.plan import TermPlan
from wavalign.plugins.ops import PADDED, Segments


def count(weights: Tensor, row_valid: Tensor, segments: Segments = PADDED) -> Tensor:
    """What one micro-batch adds to a term's denominators: [tokens with w > 0, rows], float64, to be summed.

    `weights` [B, S, T] (or [R] for a loss whose unit is the sequence or the group), `row_valid` bool [R]: rows the term
    uses.
    """
    tokens = (_used(weights, row_valid, segments) > 0).sum()
    return torch.stack([tokens, row_valid.sum()]).double()


def term_loss(
    spec: TermPlan, values: Tensor, *, weights: Tensor, row_valid: Tensor, denominators: Tensor,
    segments: Segments = PADDED,
) -> Tensor:  # fmt: skip
    """This micro-batch's part of a term's aggregate, a scalar with gradient, without share and weight.

    `values` [B, S, T] or [R], `weights` of the same shape, `row_valid` bool [R], `denominators` [2] the global sum of
    `count`, `segments` where the rows are. What stands in `values` where the weight is 0 does not matter, NaN included.
    A term that is empty everywhere is 0.
    """
    used = _used(weights, row_valid, segments).to(values.dtype)
    per_row = segments.sum(torch.where(used > 0, values, 0.0) * used)
    if spec.aggregation == "sequence":
        mass = segments.sum(used)
        per_row = per_row / torch.where(mass > 0, mass, 1.0)
    tokens, rows = denominators.to(values.dtype).unbind()
    divisor = tokens if spec.aggregation == "token" else rows * (spec.fixed_length or 1)
    return per_row.sum() / divisor.clamp(min=1)


def combine(
    losses: Mapping[str, Tensor],
    specs: Sequence[TermPlan],
    *,
    gate: float | None,
    backend_divisor: float,
    shared: Collection[str] = (),
) -> Tensor:
    """Sum of share * weight * loss over terms, times what the backend will divide by: the number to go backward from.

    `losses` holds `term_loss` [] of every spec by name; of those in `shared` it has the shares of its rows in it, see
    `with_shares`. `backend_divisor` is 1 for a backend that only sums, accumulation steps * ranks for one that averages
    over both.
    """
    factors = {spec.name: spec.weight if spec.name in shared else spec.coefficient(gate) for spec in specs}
    return torch.stack([losses[name] * factor for name, factor in factors.items()]).sum() * backend_divisor


def with_shares(spec: TermPlan, values: Tensor, gates: Tensor, segments: Segments = PADDED) -> Tensor:
    """`values` [B, S, T] or [R] times the share of the row, or group, that each is of; `gates` [R] the gate's values.

    An aggregate is linear in its values, so that shares act on its numerator: no row's share is in what it is divided
    by, and terms that share a step by prompt are cut as others are.
    """
    return values * segments.spread(spec.share.constant + spec.share.slope * gates, values).to(values.dtype)


def metric_sums(
    metrics: Mapping[str, Tensor], *, weights: Tensor, row_valid: Tensor, segments: Segments = PADDED
) -> dict[str, Tensor]:
    """Unweighted sums of `metrics` ([B, S, T] or [R] each) over tokens with w > 0, float64 scalars."""
    used = _used(weights, row_valid, segments) > 0
    return {name: torch.where(used, value.detach(), 0.0).sum(dtype=torch.float64) for name, value in metrics.items()}


def metric_maxima(
    maxima: Mapping[str, Tensor], *, weights: Tensor, row_valid: Tensor, segments: Segments = PADDED
) -> dict[str, Tensor]:
    """Largest of `maxima` ([B, S, T] or [R] each) among tokens with w > 0, float64 scalars; -inf where none is."""
    used = _used(weights, row_valid, segments) > 0
    return {name: torch.where(used, value.detach(), -math.inf).amax().double() for name, value in maxima.items()}


def _used(weights: Tensor, row_valid: Tensor, segments: Segments) -> Tensor:
    """`weights` [B, S, T] or [R], 0 in rows the term does not use."""
    return weights * segments.spread(row_valid, weights).to(weights.dtype)
