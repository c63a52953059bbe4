"""How the rows of a batch stand in the forward pass of a network: packed, and what several begin with once.

    dense    [prompt | answer 1 | pad]  [prompt | answer 2]  [prompt, answer | pad] ...          B rows of T
    packed   [prompt | answer 1 | answer 2 | ... | pad]  [prompt, answer | prompt, answer] ...   R rows of L

A packed row holds segments. A token sees what stands before it in its own segment, and the segment that its own one
continues. Losses, masks and metrics know dense rows alone; only the network sees packed ones.

Letters: B rows, S streams, T tokens of the longest; R packed rows, L tokens of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import final

import torch
from torch import Tensor

LONGEST = 8192
"""Tokens of a packed row at most, where no single row is longer: what a token may see is a matrix [L, L]."""


@final
@dataclass(frozen=True, slots=True)
class PackingOptions:
    """What may be packed, and what attention costs."""

    share: bool
    """Place what the rows of a group begin with once."""
    pack: bool
    """Place rows behind one another."""
    pairs: float
    """Pairs of tokens that attend to one another and cost as much as all else that a token passes through."""
    ahead: int = 0
    """How far ahead the furthest head looks: so many tokens before where rows part they are no longer shared."""

    def cost(self, rows: int, length: int, *, causal: bool) -> float:
        """Of a forward over `rows` x `length` tokens, in tokens; without a mask half of the pairs are skipped."""
        return rows * length * (1 + length / (self.pairs * (2 if causal else 1)))


UNPACKED = PackingOptions(share=False, pack=False, pairs=1.0)
"""Rows as they are."""


@final
@dataclass(frozen=True, slots=True)
class Unit:
    """Segments that must stand in one packed row: what rows begin with, and behind it what is each one's own."""

    prefix: int
    """Tokens of the common beginning; 0 where there is none."""
    members: tuple[tuple[int, ...], ...]
    """By segment, the rows that it is the rest of: several where they are equal to the end."""
    rests: tuple[int, ...]
    """Tokens of every segment."""

    @property
    def length(self) -> int:
        """Tokens of all of it."""
        return self.prefix + sum(self.rests)

    def segments(self) -> list[tuple[tuple[int, ...], int]]:
        """What is each one's own: its rows and its tokens."""
        return list(zip(self.members, self.rests, strict=True))

    def spans(self) -> list[tuple[tuple[int, ...], int, int]]:
        """All segments in their order: the rows that share one, and where it begins and ends in each of them."""
        everyone = tuple(row for each in self.members for row in each)
        shared = [(everyone, 0, self.prefix)] if self.prefix else []
        return shared + [(members, self.prefix, self.prefix + rest) for members, rest in self.segments()]

    def parts(self, count: int) -> "list[Unit]":
        """The same in `count` units, each with the beginning once."""
        size = ceil(len(self.rests) / count)
        cuts = [slice(start, start + size) for start in range(0, len(self.rests), size)]
        return [Unit(self.prefix, self.members[cut], self.rests[cut]) for cut in cuts]


@final
@dataclass(frozen=True, slots=True)
class Arrangement:
    """Units in packed rows, as numbers alone."""

    rows: tuple[tuple[Unit, ...], ...]
    length: int
    """L."""

    @property
    def tokens(self) -> int:
        """R x L."""
        return len(self.rows) * self.length


def arrange(units: Sequence[Unit], lengths: Sequence[int], options: PackingOptions) -> Arrangement | None:
    """Units in as few rows as they fit, or None where dense rows of `lengths` [B] cost no more."""
    longest = max(lengths)
    found = [part for unit in units for part in _divided(unit, options, most=max(LONGEST, longest))]
    length = max(unit.length for unit in found)
    rows: list[list[Unit]] = []
    room: list[int] = []
    for unit in sorted(found, key=lambda each: -each.length):
        place = next((at for at, left in enumerate(room) if left >= unit.length), None) if options.pack else None
        if place is None:
            rows.append([])
            room.append(length)
            place = -1
        rows[place].append(unit)
        room[place] -= unit.length
    made = options.cost(len(rows), length, causal=False)
    if made >= options.cost(len(lengths), longest, causal=True):
        return None
    return Arrangement(tuple(tuple(row) for row in rows), length)


def _divided(unit: Unit, options: PackingOptions, *, most: int) -> list[Unit]:
    """The unit in as many parts as cost least: a longer one repeats less and masks more."""
    choices = [unit.parts(count) for count in range(1, len(unit.rests) + 1)] if len(unit.rests) > 1 else [[unit]]
    fitting = [parts for parts in choices if max(part.length for part in parts) <= most] or choices[-1:]
    return min(fitting, key=lambda parts: sum(options.cost(1, part.length, causal=False) for part in parts))


@final
@dataclass(frozen=True, slots=True)
class RowLayout:
    """What a network must know of packed rows."""

    positions: Tensor
    """[R, L] int64: how many tokens stand before it in its own row."""
    segment: Tensor
    """[R, L] int64."""
    prefix: Tensor
    """[R, L] int64: the segment that its own one continues; its own one where there is none."""
    source: Tensor
    """[R, L] int64: which of the B x T dense tokens stands there."""
    ids: Tensor
    """[B, S, T] int64 of the dense rows."""

    def mask(self, dtype: torch.dtype) -> Tensor:
        """What is added to attention scores, [R, 1, L, L]: 0 where a token (row) sees another (column), else -inf."""
        column = torch.arange(self.segment.shape[1], device=self.segment.device)
        own, before = self.segment[:, :, None], self.prefix[:, :, None]
        there = self.segment[:, None, :]
        seen = (column[None, :] <= column[:, None]) & ((there == own) | (there == before))
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)[:, None]

    def ahead(self, steps: int) -> Tensor:
        """Ids [R, S, L] of the tokens `steps` further on in the same dense row, of its last one where there is none."""
        last = self.ids.shape[2] - 1
        row, token = self.source // (last + 1), self.source % (last + 1)
        return self.ids[row, :, (token + steps).clamp(max=last)].transpose(1, 2)


@final
@dataclass(frozen=True, slots=True)
class Packing:
    """Where every token of a dense batch stands in packed rows."""

    units: tuple[Unit, ...]
    """As they were found, before any was divided."""
    lengths: tuple[int, ...]
    """[B]."""
    options: PackingOptions
    arrangement: Arrangement
    source: Tensor
    """As in `RowLayout`, and so the next three."""
    positions: Tensor
    segment: Tensor
    prefix: Tensor
    place: Tensor
    """[B, T] int64: where each token of the dense rows stands among the R x L; 0 for padding."""

    @property
    def tokens(self) -> int:
        """Tokens of the forward, padding among them: R x L."""
        return self.arrangement.tokens

    def to(self, device: torch.device) -> "Packing":
        """The same on another device."""
        names = ("source", "positions", "segment", "prefix", "place")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def of(self, rows: Sequence[int]) -> "Packing | None":
        """That of `rows` alone, in this order; None where they are better not packed."""
        units = of_rows(self.units, rows)
        lengths = [self.lengths[row] for row in rows]
        return packing(units, lengths, self.options, self.place.device, width=self.place.shape[1])


def of_rows(units: Sequence[Unit], rows: Sequence[int]) -> list[Unit]:
    """What `units` are of `rows` alone, numbered in this order."""
    number, found = {row: index for index, row in enumerate(rows)}, []
    for unit in units:
        kept = [(tuple(number[row] for row in each if row in number), rest) for each, rest in unit.segments()]
        there = [(each, rest) for each, rest in kept if each]
        if there:
            found.append(_unit(unit.prefix, there))
    return found


def _unit(prefix: int, segments: Sequence[tuple[tuple[int, ...], int]]) -> Unit:
    """A unit of segments with their rests; one segment alone has no beginning in common with any other."""
    if len(segments) == 1:
        members, rest = segments[0]
        return Unit(0, (members,), (prefix + rest,))
    return Unit(prefix, tuple(each for each, _ in segments), tuple(rest for _, rest in segments))


def packing(
    units: Sequence[Unit],
    lengths: Sequence[int],
    options: PackingOptions,
    device: torch.device,
    *,
    width: int | None = None,
) -> Packing | None:
    """Where the tokens of rows of `lengths` [B], padded to `width` or the longest, stand; None for as they are."""
    arrangement = arrange(units, lengths, options)
    if arrangement is None:
        return None
    tables = _Tables(arrangement, torch.zeros(len(lengths), width or max(lengths), dtype=torch.int64))
    for row, each in enumerate(arrangement.rows):
        tables.fill(row, each)
    return Packing(
        units=tuple(units),
        lengths=tuple(lengths),
        options=options,
        arrangement=arrangement,
        source=tables.source.to(device),
        positions=tables.positions.to(device),
        segment=tables.segment.to(device),
        prefix=tables.prefix.to(device),
        place=tables.place.to(device),
    )


@final
class _Tables:
    """The tensors of a `Packing` while they are filled, segment by segment."""

    def __init__(self, arrangement: Arrangement, place: Tensor) -> None:
        """All of it padding, before the first; `place` [B, T] is zeros."""
        shape = (len(arrangement.rows), arrangement.length)
        self.source, self.positions = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
        self.segment, self.prefix = torch.full(shape, -1), torch.full(shape, -1)
        self.place, self._segments = place, 0

    def fill(self, row: int, units: Sequence[Unit]) -> None:
        """Put `units` behind one another into packed row `row`."""
        column, size, width = 0, self.source.shape[1], self.place.shape[1]
        for unit in units:
            shared = self._segments if unit.prefix else None
            for members, begin, end in unit.spans():
                here, tokens = slice(column, column + end - begin), torch.arange(begin, end)
                self.positions[row, here], self.source[row, here] = tokens, members[0] * width + tokens
                self.segment[row, here] = self._segments
                self.prefix[row, here] = self._segments if shared is None else shared
                for member in members:
                    self.place[member, begin:end] = tokens + (row * size + column - begin)
                column, self._segments = here.stop, self._segments + 1
