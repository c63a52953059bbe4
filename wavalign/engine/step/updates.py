"""A step's rows as updates: epochs of mini-batches, cut by groups."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch

from wavalign.engine.state.seeds import generator
from wavalign.engine.step.batches import Row

Seed = tuple[int, *tuple[int | str, ...]]
"""The run's seed and the names of a use of it."""


@final
@dataclass(frozen=True, slots=True)
class Update:
    """The rows of this rank that one update of the weights learns from."""

    number: int
    """Within the step, from 0."""
    rows: tuple[Row, ...]


def cut_updates(rows: Sequence[Row], *, epochs: int, mini_batches: int, rank: int, seed: Seed) -> list[Update]:
    """Every epoch in `mini_batches` parts of equally many groups of each family.

    Of every `mini_batches` groups in a row each goes to another part, by a draw of the epoch that hangs on where they
    stand among the groups of all ranks; so the parts are the same on any number of ranks.
    """
    found: list[Update] = []
    for epoch in range(epochs):
        parts = _parts(rows, mini_batches, rank=rank, seed=(*seed, epoch)) if mini_batches > 1 else [list(rows)]
        found += [Update(len(found) + number, tuple(part)) for number, part in enumerate(parts)]
    return found


def _parts(rows: Sequence[Row], count: int, *, rank: int, seed: Seed) -> list[list[Row]]:
    part_of = dict(_assigned(rows, count, rank=rank, seed=seed))
    parts: list[list[Row]] = [[] for _ in range(count)]
    for row in rows:
        parts[part_of[row.family, row.group]].append(row)
    return parts


def _assigned(rows: Sequence[Row], count: int, *, rank: int, seed: Seed) -> Iterator[tuple[tuple[str, int], int]]:
    """((family, group), part) of every group."""
    for family in dict.fromkeys(row.family for row in rows):
        groups = sorted({row.group for row in rows if row.family == family})
        for index, group in enumerate(groups):
            block, place = divmod(rank * len(groups) + index, count)
            first, *others = seed
            order = torch.randperm(count, generator=generator(first, "mini_batches", *others, family, block))
            yield (family, group), int(order[place])
