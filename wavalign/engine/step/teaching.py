"""Rows of an update from which nothing can be learned: they are not run.

A row teaches nothing where every term that would learn from it says so: the column that its loss names as its `signal`
is 0 in all of the row, or is not there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch

from wavalign.engine.step.batches import Column, MicroBatch, Row
from wavalign.engine.step.terms import LiveTerm

NOISE = 1e-9
"""An advantage this small is two roundings of the same reward."""


@final
@dataclass(frozen=True, slots=True)
class Taught:
    """An update's rows, sorted by whether they teach."""

    run: Sequence[Row]
    """In their order."""
    left: Sequence[Row] = ()
    """Those that teach nothing."""

    @property
    def only_left(self) -> Sequence[Sequence[Row]]:
        """Those of them that are not run, in one part or none."""
        shown = self.shown
        found = [row for row in self.left if row.key not in shown]
        return [found] if found else []

    @property
    def shown(self) -> frozenset[tuple[str, int, int]]:
        """Keys of rows that teach nothing and are run all the same."""
        return frozenset(row.key for row in self.left) & frozenset(row.key for row in self.run)


def sorted_by_signal(rows: Sequence[Row], columns: Mapping[str, Column], terms: Sequence[LiveTerm]) -> Taught:
    """Rows that are run and rows that teach nothing.

    Of every term some row is run, so that what it logs has a name on every rank: the first, where none teaches.
    """
    left = [row for row in rows if not _teaches(row, columns, terms)]
    silent = {id(row) for row in left}
    for term in terms:
        mine = [row for row in rows if _sees(term, row)]
        if mine and all(id(row) in silent for row in mine):
            silent.discard(id(mine[0]))
    return Taught([row for row in rows if id(row) not in silent], left)


def muted(batch: MicroBatch, keys: frozenset[tuple[str, int, int]]) -> MicroBatch:
    """`batch` whose rows of `keys` are valid for no term: they are counted elsewhere."""
    quiet = torch.tensor([row.key in keys for row in batch.rows])
    if not bool(quiet.any()):
        return batch
    terms = {name: replace(each, valid=each.valid & ~quiet) for name, each in batch.terms.items()}
    return replace(batch, terms=terms, sampled=batch.sampled & ~quiet)


def _teaches(row: Row, columns: Mapping[str, Column], terms: Sequence[LiveTerm]) -> bool:
    """Whether some term may learn from `row`; one that no term sees stays where it is."""
    seeing = [term for term in terms if _sees(term, row)]
    return not seeing or any(_has_signal(row, columns, term) for term in seeing)


def _sees(term: LiveTerm, row: Row) -> bool:
    return row.family == term.plan.family and (not term.plan.members or row.member in term.plan.members)


def _has_signal(row: Row, columns: Mapping[str, Column], term: LiveTerm) -> bool:
    if not term.plan.signal:
        return True
    found = columns[term.plan.signal].of(row)
    return found is not None and bool((found.abs() > NOISE).any())
