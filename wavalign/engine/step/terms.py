"""A term's values: what its loss is given of a micro-batch, what it gives, and its part of the objective.

Letters: B rows of a micro-batch, b those of the term's family, S streams, E further heads, T tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from wavalign.engine.compile.operators import PROMPT_GATES
from wavalign.engine.compile.plan import TermPlan
from wavalign.engine.contracts.origins import origin
from wavalign.engine.step import objective
from wavalign.engine.step.batches import MicroBatch, TermRows
from wavalign.plugins.api import Loss, LossInputs, LossOutput, Mask
from wavalign.plugins.ops import PADDED


@final
@dataclass(frozen=True, slots=True)
class LiveTerm:
    """A term with its loss and mask."""

    plan: TermPlan
    loss: Loss
    mask: Mask

    @property
    def needs(self) -> frozenset[str]:
        """Columns and scalar outputs that its loss is given."""
        return frozenset(self.plan.needs)


@final
@dataclass(frozen=True, slots=True)
class Tally:
    """What a term leaves of one micro-batch for the metrics: scalars without gradient, on the device."""

    value: Tensor
    """Its part of the aggregate, []."""
    sums: Mapping[str, Tensor]
    """Of its loss's metrics, float64 []."""
    maxima: Mapping[str, Tensor]
    """Of its loss's metrics, float64 []."""
    given_finite: Tensor
    """Bool []: whether all that somebody's loss was given are finite numbers; False where nobody asks."""


def term_value(
    term: LiveTerm,
    batch: MicroBatch,
    logprobs: Tensor,
    scalars: Mapping[str, Tensor],
    denominators: Tensor,
    *,
    by_prompt: bool = False,
) -> tuple[Tensor, Tally]:
    """The term's part of its aggregate, [] with gradient, and its tally; the part with the shares of its rows in it
    where it is shared `by_prompt`, the tally without.

    `logprobs` [B, S + E, T], `scalars` by name [B, T] or [B], `denominators` [2] of the update, all on one device.
    """
    mine = batch.terms[term.plan.name]
    if not len(mine.group):  # no row of its family: nothing to ask its loss
        value = logprobs.sum() * 0.0
        return value, Tally(value.detach(), {}, {}, torch.zeros((), dtype=torch.bool, device=value.device))
    inputs = _inputs(term, batch, logprobs, scalars)
    output = term.loss.compute(inputs)
    if mine.rows is not None and term.plan.unit != "group":
        output = _over_all_rows(output, mine.rows, len(logprobs))
    weights, valid = unit_weights(term, mine), unit_valid(term, mine)
    value = objective.term_loss(term.plan, output.values, weights=weights, row_valid=valid, denominators=denominators)
    alone = value.detach()
    if by_prompt:
        values = objective.with_shares(term.plan, output.values, _unit_gates(term, mine, batch.columns[PROMPT_GATES]))
        value = objective.term_loss(term.plan, values, weights=weights, row_valid=valid, denominators=denominators)
    return value, Tally(
        alone,
        objective.metric_sums(output.metrics, weights=weights, row_valid=valid),
        objective.metric_maxima(output.maxima, weights=weights, row_valid=valid),
        _given_finite(term, inputs),
    )


def unit_weights(term: LiveTerm, mine: TermRows) -> Tensor:
    """The term's weights in its loss's unit: [B, S + E, T], or 1 for a row [B] or a group that has any."""
    if term.plan.unit == "token":
        return mine.weights
    chosen = PADDED.sum((mine.weights > 0).long()) > 0
    return (chosen if term.plan.unit == "sequence" else _any_of_group(chosen, mine)).float()


def unit_valid(term: LiveTerm, mine: TermRows) -> Tensor:
    """Bool [B]; of a loss whose unit is the group, groups all of whose rows are valid."""
    return mine.valid if term.plan.unit != "group" else ~_any_of_group(~mine.valid, mine)


def _unit_gates(term: LiveTerm, mine: TermRows, gates: Tensor) -> Tensor:
    """The gate's value [B] of every row, of `gates` [B, 1, 1]; of a loss whose unit is the group, [groups]."""
    of_rows = gates.flatten()
    if term.plan.unit != "group":
        return of_rows
    own = of_rows if mine.rows is None else of_rows[mine.rows]
    return own.new_zeros(mine.groups).index_copy(0, mine.group, own)  # one value a group: whose copy stays is the same


def units(term: LiveTerm, mine: TermRows) -> int:
    """Groups or rows that there are for it, those that are left out among them."""
    return mine.groups if term.plan.unit == "group" else len(mine.group)


def _any_of_group(flags: Tensor, mine: TermRows) -> Tensor:
    """Bool [groups]: whether any of a group's rows has its flag in `flags` [B]."""
    own = flags if mine.rows is None else flags[mine.rows]
    count = torch.zeros(mine.groups, dtype=torch.int64, device=own.device).index_add_(0, mine.group, own.long())
    return count > 0


def _inputs(term: LiveTerm, batch: MicroBatch, logprobs: Tensor, scalars: Mapping[str, Tensor]) -> LossInputs:
    """What the loss sees: the b rows of its family in `logprobs` [B, S + E, T], and the columns it asked for."""
    mine = batch.terms[term.plan.name]
    given = {**batch.columns, **scalars}
    return LossInputs(
        logprobs=_narrow(logprobs, mine),
        columns={name: _narrow(given[name], mine) for name in sorted(term.needs)},
        mask=_narrow(mine.weights > 0, mine),
        group=mine.group,
        member=mine.member,
    )


def _narrow(tensor: Tensor, mine: TermRows) -> Tensor:
    """[B, ...] to the rows of the family, [b, ...]."""
    return tensor if mine.rows is None else tensor[mine.rows]


def _over_all_rows(output: LossOutput, rows: Tensor, count: int) -> LossOutput:
    """Values and metrics [b, ...] with 0 in the rows of other families, [B, ...], as weights are."""

    def widened(values: Tensor) -> Tensor:
        """[b, ...] to [B, ...]."""
        return values.new_zeros((count, *values.shape[1:])).index_copy(0, rows, values)

    return LossOutput(
        widened(output.values),
        {name: widened(each) for name, each in output.metrics.items()},
        {name: widened(each) for name, each in output.maxima.items()},
    )


def _given_finite(term: LiveTerm, inputs: LossInputs) -> Tensor:
    """Bool []: whether all that somebody's loss was given where it counts is finite; overflow is our doing."""
    if origin(term.loss).own:
        return torch.zeros((), dtype=torch.bool, device=inputs.logprobs.device)
    given = [inputs.logprobs, *(each for each in inputs.columns.values() if each.shape == inputs.logprobs.shape)]
    return torch.stack([(torch.isfinite(each.detach()) | ~inputs.mask).all() for each in given]).all()
