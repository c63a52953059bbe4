"""What losses on pairs share: log-probs of rows, the two sides of every pair, and what is logged of them.

Member 0 of a group is the chosen (desirable) side, member 1 the rejected (undesirable) one.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from wavalign.plugins.api import LossInputs, Regularizer

CHOSEN, REJECTED = 0, 1
PAIR = (CHOSEN, REJECTED)
EVEN = 1e-4
"""Gaps in nats that are rounding: of a policy that is its own reference, neither side is preferred."""
"""Members that a loss on pairs is given."""


def row_logprobs(inputs: LossInputs, values: Tensor, *, per_token: bool) -> Tensor:
    """Sum [B], or mean, of each row's `values` [B, S, T] over the tokens of the term."""
    if per_token:
        return inputs.segments.mean(values, inputs.mask)
    return inputs.segments.sum(torch.where(inputs.mask, values, 0.0))


@final
@dataclass(frozen=True, slots=True)
class Sides:
    """A number for the two sides of every pair."""

    chosen: Tensor
    """[groups]."""
    rejected: Tensor
    """[groups]."""

    @property
    def gap(self) -> Tensor:
        """Chosen less rejected, [groups]."""
        return self.chosen - self.rejected


def sides(inputs: LossInputs, rows: Tensor) -> Sides:
    """A number a row, [B], by the sides of the pairs; 0 where a side is not there."""

    def side(member: int) -> Tensor:
        """[groups]."""
        here = inputs.member == member
        return rows.new_zeros(inputs.groups).index_add(0, inputs.group[here], rows[here])

    return Sides(side(CHOSEN), side(REJECTED))


@final
@dataclass(frozen=True, slots=True)
class Pairs:
    """Log-probs of the sides of pairs, and their distance from the reference where there is one."""

    logprobs: Sides
    ratios: Sides
    """log pi - log pi_ref; log pi itself where there is no reference."""
    refers: bool

    def metrics(self, beta: float) -> dict[str, Tensor]:
        """Implicit rewards beta * ratio, their margin and its sign (half where even), and log-probs, [groups] each."""
        gap = self.ratios.gap.detach()
        chosen, rejected = beta * self.ratios.chosen.detach(), beta * self.ratios.rejected.detach()
        found = {
            "margin": chosen - rejected,
            "accuracy": preferred(gap),
            "chosen_reward": chosen,
            "rejected_reward": rejected,
            "chosen_logprob": self.logprobs.chosen.detach(),
            "rejected_logprob": self.logprobs.rejected.detach(),
        }
        if self.refers:
            drift = {"chosen_drift": self.ratios.chosen.detach(), "rejected_drift": self.ratios.rejected.detach()}
            found |= drift
        return found


def preferred(gap: Tensor) -> Tensor:
    """1 where a gap in nats is above 0, 0 where it is below, and half where it is rounding."""
    return (torch.where(gap.abs() > EVEN, gap, 0.0).sign() + 1) / 2


def pairs_of(inputs: LossInputs, *, per_token: bool, reference: bool) -> Pairs:
    """The pairs of `inputs`, by sums over the tokens of a side or by means."""
    logprobs = sides(inputs, row_logprobs(inputs, inputs.logprobs, per_token=per_token))
    if not reference:
        return Pairs(logprobs, logprobs, refers=False)
    gap = inputs.logprobs - inputs.column("ref_logprobs")
    return Pairs(logprobs, sides(inputs, row_logprobs(inputs, gap, per_token=per_token)), refers=True)


def imitated(weight: float) -> tuple[Regularizer, ...]:
    """Cross entropy on the chosen side, which comes along as a term of its own; none where its weight is 0."""
    if weight == 0:
        return ()
    return (Regularizer("nll", "cross_entropy", {}, tokens=None, weight=weight, members=(CHOSEN,)),)


def smoothed_logistic(margin: Tensor, smoothing: float) -> Tensor:
    """Cross entropy of sigmoid(margin) against a preference that holds at rate 1 - smoothing; `margin` [...]."""
    held = -logsigmoid(margin)
    return held if smoothing == 0 else (1 - smoothing) * held - smoothing * logsigmoid(-margin)
