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
Shapes: B sequences, S streams, T tokens.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from wavalign.engine.compile.plan import TermPlan


def count(weights: Tensor, row_valid: Tensor) -> Tensor:
    """What one micro-batch adds to a term's denominators: [tokens with w > 0, rows], float64, to be summed.

    `weights` [B, S, T] (or [B] for a loss whose unit is the sequence), `row_valid` bool [B]: rows the term uses.
    """
    tokens = (_used(weights, row_valid) > 0).sum()
    return torch.stack([tokens, row_valid.sum()]).double()


def term_loss(spec: TermPlan, values: Tensor, *, weights: Tensor, row_valid: Tensor, denominators: Tensor) -> Tensor:
    """This micro-batch's part of a term's aggregate, a scalar with gradient, without share and weight.

    `values` [B, S, T] or [B], `weights` of the same shape, `denominators` the global sum of `count`. What stands in
    `values` where the weight is 0 does not matter, NaN included. A term that is empty everywhere is 0.
    """
    used = _used(weights, row_valid).to(values.dtype)
    dims = tuple(range(1, values.dim()))
    parts = torch.where(used > 0, values, 0.0) * used
    per_row = parts.sum(dim=dims) if dims else parts
    if spec.aggregation == "sequence":
        mass = used.sum(dim=dims) if dims else used
        per_row = per_row / torch.where(mass > 0, mass, 1.0)
    tokens, rows = denominators.to(values.dtype).unbind()
    divisor = tokens if spec.aggregation == "token" else rows * (spec.fixed_length or 1)
    return per_row.sum() / divisor.clamp(min=1)


def combine(
    losses: Mapping[str, Tensor], specs: Sequence[TermPlan], *, gate: float | None, backend_divisor: float
) -> Tensor:
    """Sum of share * weight * loss over terms, times what the backend will divide by: the number to go backward from.

    `losses` holds `term_loss` of every spec by name. `backend_divisor` is 1 for a backend that only sums,
    accumulation steps * ranks for one that averages over both.
    """
    return torch.stack([losses[spec.name] * spec.coefficient(gate) for spec in specs]).sum() * backend_divisor


def metric_sums(metrics: Mapping[str, Tensor], *, weights: Tensor, row_valid: Tensor) -> dict[str, Tensor]:
    """Unweighted sums of `metrics` over tokens with w > 0, float64 scalars to be summed and divided by the tokens."""
    used = _used(weights, row_valid) > 0
    return {name: torch.where(used, value.detach(), 0.0).sum(dtype=torch.float64) for name, value in metrics.items()}


def metric_maxima(maxima: Mapping[str, Tensor], *, weights: Tensor, row_valid: Tensor) -> dict[str, Tensor]:
    """Largest of `maxima` among tokens with w > 0, float64 scalars; -inf where there are none."""
    used = _used(weights, row_valid) > 0
    return {name: torch.where(used, value.detach(), -math.inf).amax().double() for name, value in maxima.items()}


def _used(weights: Tensor, row_valid: Tensor) -> Tensor:
    """`weights`, 0 in rows the term does not use."""
    return weights * row_valid.view(-1, *(1 for _ in weights.shape[1:])).to(weights.dtype)
