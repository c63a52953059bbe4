"""Rows of an update to micro-batches: as many on every rank, and not cut again where they were cut before."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import final

import torch

from wavalign.engine.state.distributed import World
from wavalign.engine.step.batches import MicroBatch, Row, cut_rows
from wavalign.engine.step.selection import Selection, idle
from wavalign.engine.step.terms import LiveTerm

OPEN = 16
"""Parts that are looked at for room: those before them are nearly full."""
Measure = Callable[[Sequence[Row]], int]
"""Rows -> tokens of their forward."""


@final
@dataclass(frozen=True, slots=True)
class Limits:
    """What one forward may hold."""

    rows: int
    tokens: int | None = None
    """As the network is given them; None for any number."""
    together: bool = False
    """Keep the rows of a group in one micro-batch where they fit: what they begin with is then computed once."""


@final
class Cutter:
    """Cuts rows into micro-batches within `limits`; groups that some term keeps whole are never split."""

    def __init__(self, selection: Selection, terms: Sequence[LiveTerm], *, limits: Limits, world: World) -> None:
        self._selection, self._limits, self._world = selection, limits, world
        self._whole = frozenset(term.plan.family for term in terms if term.plan.whole_groups)
        self._rows: Sequence[Row] = ()
        self._made: list[MicroBatch] = []

    def cut(self, rows: Sequence[Row]) -> list[MicroBatch]:
        """Micro-batches on the CPU, without columns.

        Epochs without mini-batches, and what is scored before the updates, cut the same rows again: the last cut is
        kept until there is another.
        """
        if len(rows) != len(self._rows) or any(a is not b for a, b in zip(rows, self._rows, strict=True)):
            parts = self._parts(rows)
            self._rows = tuple(rows)
            self._made = [self._selection.collate(part, number=number) for number, part in enumerate(parts)]
        if self._world.size == 1:
            return self._made
        # Asked every time: whether a rank has cut its rows before says nothing of the others.
        most = int(self._world.all_gather_rows(torch.tensor([len(self._made)])).max())
        return [*self._made, *(idle(self._made[0], number) for number in range(len(self._made), most))]

    def _parts(self, rows: Sequence[Row]) -> list[list[Row]]:
        limits = self._limits
        if limits.tokens is None and (not limits.together or len(rows) <= limits.rows):
            return cut_rows(rows, limits.rows, self._whole)
        measure = self._selection.measure(rows) if limits.tokens is not None else None
        return fill(self._blocks(rows, measure), limits, measure)

    def _blocks(self, rows: Sequence[Row], measure: Measure | None) -> list[list[Row]]:
        """Rows that go together: groups that must, and those that should as far as they fit, the longest first."""
        groups: dict[Hashable, list[Row]] = {}
        for number, row in enumerate(rows):
            together = self._limits.together or row.family in self._whole
            groups.setdefault((row.family, row.group) if together else number, []).append(row)
        blocks: list[list[Row]] = []
        for group in groups.values():
            blocks += (
                [group] if group[0].family in self._whole else fill([[row] for row in group], self._limits, measure)
            )
        return sorted(blocks, key=lambda block: -max(row.tokens.length for row in block))


def fill(blocks: Sequence[list[Row]], limits: Limits, measure: Measure | None) -> list[list[Row]]:
    """Blocks, in their order, each in the first of the latest parts that has room; one that fits in none is a part."""
    parts: list[list[Row]] = []
    for block in blocks:
        place = next((part for part in parts[-OPEN:] if _fits([*part, *block], limits, measure)), None)
        if place is None:
            parts.append(list(block))
        else:
            place += block
    return parts


def _fits(rows: Sequence[Row], limits: Limits, measure: Measure | None) -> bool:
    """Whether a forward may hold `rows`."""
    if len(rows) > limits.rows:
        return False
    return measure is None or limits.tokens is None or measure(rows) <= limits.tokens
