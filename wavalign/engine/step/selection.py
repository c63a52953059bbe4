"""Which positions and rows of a micro-batch each term uses. B rows, S streams, E further heads, T tokens."""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from wavalign.engine.contracts.origins import origin, written_at
from wavalign.engine.step.batches import MicroBatch
from wavalign.engine.step.further_heads import further_heads, spread, with_further_heads
from wavalign.engine.step.stage import LiveTerm
from wavalign.errors import PluginError
from wavalign.plugins.api import LossInputs
from wavalign.plugins.batch import TokenSpace


@final
class Selection:
    """What the terms of a stage look at."""

    def __init__(self, terms: Sequence[LiveTerm], space: TokenSpace) -> None:
        self._terms, self._space = terms, space
        wants_further = any(term.plan.heads == "mtp" for term in terms)
        self._further = further_heads(space) if wants_further else ()

    def widen(self, batch: MicroBatch) -> MicroBatch:
        """`batch` with a stream for every further head that some term trains: S becomes S + E."""
        return with_further_heads(batch, self._space, self._further)

    def weights(self, batch: MicroBatch) -> dict[str, Tensor]:
        """Per term [B, S + E, T], 0 in rows of the other kind."""
        roles = batch.tokens.roles[:, : len(self._space.streams)]
        result = {}
        for term in self._terms:
            mine = batch.is_rollout if term.plan.rows == "rollouts" else ~batch.is_rollout
            weights = term.mask.weights(roles) * mine.view(-1, 1, 1)
            further = term.plan.heads == "mtp"
            result[term.plan.name] = spread(weights, self._space, self._further, further=further)
        return result

    def union(self, batch: MicroBatch, weights: Mapping[str, Tensor], *, only: str | None = None) -> Tensor:
        """Bool [B, S + E, T]: positions some term weighs (some term that needs `only`)."""
        select = torch.zeros_like(batch.tokens.roles, dtype=torch.bool)
        for term in self._terms:
            if only is None or only in term.loss.needs:
                select |= weights[term.plan.name] > 0
        return select

    def row_valid(self, batch: MicroBatch, valid: Tensor | None) -> dict[str, Tensor]:
        """Per term bool [B]: rows of its kind; where it needs advantages, those that have one (`valid` [P, G])."""
        result = {}
        for term in self._terms:
            if term.plan.rows == "demonstrations":
                result[term.plan.name] = ~batch.is_rollout
                continue
            rows = batch.is_rollout.clone()
            if valid is not None and "advantages" in term.loss.needs:
                rows &= by_row(batch, valid, fill=False)
            result[term.plan.name] = rows
        return result


def by_row(batch: MicroBatch, table: Tensor, *, fill: float) -> Tensor:
    """`table` [P, G] read at every row's place, `fill` for demonstrations: [B]."""
    values = [
        table[row.place] if row.place is not None else torch.tensor(fill, dtype=table.dtype) for row in batch.rows
    ]
    return torch.stack(values).to(batch.tokens.ids.device)


def nothing_selected(term: LiveTerm, rows: int, place: str) -> PluginError:
    """The error of a term none of whose rows, on all ranks, holds a token it learns from."""
    mask = origin(term.mask)
    return PluginError(
        f"{mask}: selects no token of {rows} rows at {place}, so that term `{term.plan.name}` learns nothing",
        hint="look at the term's `tokens` and at what the answers hold (rollouts.jsonl)",
        placed=True,
    )


def refuse_broken_values(term: LiveTerm, inputs: LossInputs, used: Tensor, place: str) -> None:
    """Raise PluginError where somebody's loss gave no number and all it was given, where `used`, are numbers.

    WavAlign's own overflow only where the policy has run away, which is the learning rate's doing.
    """
    loss, given = origin(term.loss), (inputs.logprobs, inputs.old_logprobs, inputs.ref_logprobs)
    if loss.own or not all(bool(torch.isfinite(each.detach()[used]).all()) for each in given if each is not None):
        return
    raise PluginError(
        f"{loss}: compute gave values that are no finite numbers from log-probs that are, {place}"
        f" ({written_at(term.loss, 'compute')})",
        hint="weights are as before this step; look for log(0), 0 / 0 and exp of large numbers in the loss",
        placed=True,
    )
