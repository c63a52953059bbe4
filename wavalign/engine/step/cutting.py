"""Rows of an update to micro-batches: as many on every rank, and not cut again where they were cut before."""

from collections.abc import Sequence
from typing import final

import torch

from wavalign.engine.state.distributed import World
from wavalign.engine.step.batches import MicroBatch, Row, cut_rows
from wavalign.engine.step.selection import Selection, idle
from wavalign.engine.step.terms import LiveTerm


@final
class Cutter:
    """Cuts rows into micro-batches of at most `size` rows; groups that some term keeps whole are never split."""

    def __init__(self, selection: Selection, terms: Sequence[LiveTerm], *, size: int, world: World) -> None:
        self._selection, self._size, self._world = selection, size, world
        self._whole = frozenset(term.plan.family for term in terms if term.plan.whole_groups)
        self._rows: Sequence[Row] = ()
        self._made: list[MicroBatch] = []

    def cut(self, rows: Sequence[Row]) -> list[MicroBatch]:
        """Micro-batches on the CPU, without columns.

        Epochs without mini-batches, and what is scored before the updates, cut the same rows again: the last cut is
        kept until there is another.
        """
        if len(rows) != len(self._rows) or any(a is not b for a, b in zip(rows, self._rows, strict=True)):
            parts = cut_rows(rows, self._size, self._whole)
            self._rows = tuple(rows)
            self._made = [self._selection.collate(part, number=number) for number, part in enumerate(parts)]
        if self._world.size == 1:
            return self._made
        # Asked every time: whether a rank has cut its rows before says nothing of the others.
        most = int(self._world.all_gather_rows(torch.tensor([len(self._made)])).max())
        return [*self._made, *(idle(self._made[0], number) for number in range(len(self._made), most))]
