"""Which positions and rows of a micro-batch each term uses. B rows, S streams, E further heads, T tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from wavalign.engine.compile.operators import SCALARS
from wavalign.engine.contracts.origins import origin, written_at
from wavalign.engine.models.packed_rows import find_units, forward_tokens, packed
from wavalign.engine.step.batches import Column, MicroBatch, Row, TermRows, collate_rows, with_columns
from wavalign.engine.step.further_heads import further_heads, spread, with_further_heads
from wavalign.engine.step.terms import LiveTerm
from wavalign.errors import DataError, PluginError
from wavalign.plugins.batch import TokenBatch, TokenSpace
from wavalign.plugins.packing import UNPACKED, PackingOptions


@final
class Selection:
    """What the terms of a stage look at."""

    def __init__(
        self,
        terms: Sequence[LiveTerm],
        space: TokenSpace,
        also: Mapping[str, frozenset[str]] | None = None,
        packing: PackingOptions | None = None,
    ) -> None:
        """`also` says of a column whose positions are asked for which further needs of terms count as needing it.

        `packing` says how networks are given rows; None as they are.
        """
        self._terms, self._space, self._also, self._packing = terms, space, also or {}, packing
        wants_further = any(term.plan.heads == "mtp" for term in terms)
        self._further = further_heads(space) if wants_further else ()

    @property
    def streams(self) -> int:
        """S of the rows, without what further heads add."""
        return len(self._space.streams)

    def collate(self, rows: Sequence[Row], *, number: int, packs: bool = True) -> MicroBatch:
        """Rows as a micro-batch with what every term learns from it, columns aside, on the CPU.

        It says how a network is given them where it `packs`. It has a stream for every further head that some term
        trains: S becomes S + E.
        """
        batch = with_further_heads(collate_rows(rows, self._space, number=number), self._space, self._further)
        if self._packing is not None and packs:
            batch = replace(batch, tokens=packed(batch.tokens, groups_of(rows), self._reaching(batch.tokens)))
        roles = batch.tokens.roles[:, : len(self._space.streams)]
        terms = {term.plan.name: self._of_term(term, batch, roles) for term in self._terms}
        return replace(batch, terms=terms)

    def measure(self, rows: Sequence[Row]) -> Callable[[Sequence[Row]], int]:
        """What counts the tokens that a network is given of some of `rows`."""
        batch = with_further_heads(collate_rows(rows, self._space, number=0), self._space, self._further)
        options = self._reaching(batch.tokens)
        units, lengths = find_units(batch.tokens, groups_of(rows), options), batch.tokens.lengths.tolist()
        number = {id(row): index for index, row in enumerate(rows)}
        return lambda some: forward_tokens(units, lengths, [number[id(row)] for row in some], options)

    def _reaching(self, tokens: TokenBatch) -> PackingOptions:
        """How rows are packed, for the heads that predict some of `tokens`."""
        shifts = [self._space.heads[head].shift for head in tokens.sources.unique().tolist()]
        return replace(self._packing or UNPACKED, ahead=max(shifts) - 1)

    def union(self, batch: MicroBatch, *, only: str | None = None) -> Tensor:
        """Bool [B, S + E, T]: positions whose log-probs some term reads (some term that needs `only`)."""
        select = torch.zeros_like(batch.tokens.roles, dtype=torch.bool)
        wanted = frozenset() if only is None else self._also.get(only, frozenset()) | {only}
        for term in self._terms:
            if term.loss.reads_logprobs if only is None else wanted & term.needs:
                select |= batch.terms[term.plan.name].weights > 0
        return select

    def with_columns(self, batch: MicroBatch, columns: Mapping[str, Column]) -> MicroBatch:
        """`batch` with columns; rows that lack one that a term needs are not valid for it."""
        batch = with_columns(batch, columns)
        terms = dict(batch.terms)
        for term in self._terms:
            valid = terms[term.plan.name].valid.clone()
            for name in term.needs & batch.present.keys():
                valid &= batch.present[name]
            terms[term.plan.name] = replace(terms[term.plan.name], valid=valid)
        return replace(batch, terms=terms)

    def weighed(self, batch: MicroBatch, *, by: str, where: str) -> MicroBatch:
        """`batch` with the weights of the terms that need column `where` multiplied by column `by`."""
        factor = batch.columns[by]
        terms = {
            term.plan.name: replace(mine, weights=mine.weights * factor) if where in term.needs else mine
            for term, mine in ((term, batch.terms[term.plan.name]) for term in self._terms)
        }
        return replace(batch, terms=terms)

    def _of_term(self, term: LiveTerm, batch: MicroBatch, roles: Tensor) -> TermRows:
        """What a term learns from in `batch`, whose streams have `roles` [B, S, T]."""
        wanted = term.plan.members
        mine = torch.tensor(
            [row.family == term.plan.family and (not wanted or row.member in wanted) for row in batch.rows]
        )
        weights = term.mask.weights(roles) * mine.view(-1, 1, 1)
        weights = spread(weights, self._space, self._further, further=term.plan.heads == "mtp")
        rows = mine.nonzero()[:, 0]
        keys = [batch.rows[index].key for index in rows.tolist()]
        groups = {group: number for number, group in enumerate(dict.fromkeys(group for _, group, _ in keys))}
        return TermRows(
            weights=weights,
            valid=mine & _in_whole_groups(batch.rows, weights, wanted) if term.plan.unit == "group" else mine,
            rows=None if len(rows) == len(mine) else rows,
            group=torch.tensor([groups[group] for _, group, _ in keys], dtype=torch.int64),
            member=torch.tensor([member for _, _, member in keys], dtype=torch.int64),
            groups=len(groups),
        )


def groups_of(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """Of every row, which group of which family it is of."""
    return [(row.family, row.group) for row in rows]


def _in_whole_groups(rows: Sequence[Row], weights: Tensor, members: Sequence[int]) -> Tensor:
    """Bool [B]: rows whose group has all of `members`, each with a token that `weights` [B, S + E, T] weigh."""
    has = [row.key for row, chosen in zip(rows, (weights > 0).flatten(1).any(dim=1).tolist(), strict=True) if chosen]
    there = frozenset(has)
    return torch.tensor(
        [all((row.family, row.group, member) in there for member in members) for row in rows], dtype=torch.bool
    )


def idle(batch: MicroBatch, number: int) -> MicroBatch:
    """A micro-batch from which nothing is learned, where other ranks have one more."""
    none = torch.zeros(0, dtype=torch.int64)
    nothing = {
        name: TermRows(torch.zeros_like(each.weights), torch.zeros_like(each.valid), none, none, none, groups=0)
        for name, each in batch.terms.items()
    }
    rows = tuple(replace(row, family="") for row in batch.rows)  # nobody's: what is said of them is of no row
    return replace(batch, number=number, rows=rows, terms=nothing, sampled=torch.zeros_like(batch.sampled))


def nothing_selected(term: LiveTerm, rows: int, place: str) -> PluginError:
    """The error of a term none of whose rows, on all ranks, holds a token it learns from."""
    mask = origin(term.mask)
    return PluginError(
        f"{mask}: selects no token of {rows} rows at {place}, so that term `{term.plan.name}` learns nothing",
        hint="look at the term's `tokens` and at what the answers hold (rollouts.jsonl)",
        placed=True,
    )


def all_left_out(term: LiveTerm, count: int, place: str) -> DataError:
    """The error of a term that could use none of a step's pairs, or of its rows of data."""
    sides = f"each of the members {list(term.plan.members)}, with tokens of `tokens`" if term.plan.members else ""
    named = ", ".join(each for each in term.plan.needs if each not in ("ref_logprobs", *SCALARS, *term.plan.scalars))
    lacks = " and ".join(each for each in (sides, named) if each)
    what = "groups" if term.plan.unit == "group" else "rows"
    return DataError(
        f"term `{term.plan.name}` can use none of {count} {what} of {term.plan.family} at {place}",
        hint=f"it learns from {what} that have {lacks or 'tokens of its `tokens`'}",
    )


def broken_values(term: LiveTerm, place: str) -> PluginError:
    """The error of somebody's loss that gave no number though all it was given are numbers."""
    return PluginError(
        f"{origin(term.loss)}: compute gave values that are no finite numbers from log-probs that are, {place}"
        f" ({written_at(term.loss, 'compute')})",
        hint="weights are as before this step; look for log(0), 0 / 0 and exp of large numbers in the loss",
        placed=True,
    )
