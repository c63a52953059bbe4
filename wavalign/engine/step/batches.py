"""Rows to learn from, what is known of them by name, and the micro-batches that one forward sees.

Letters: B rows, S streams, E further heads, T tokens, K kept ids, P prompts, G group.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from wavalign.plugins.batch import TokenBatch, TokenSequence, TokenSpace, collate


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One row to learn from: member `member` of group `group` of its family on this rank."""

    tokens: TokenSequence
    """Prompt and answer, [S, T]."""
    family: str
    group: int
    member: int
    temperatures: tuple[float, ...] | None = None
    """[S] that the streams of an answer were sampled at; None for one that was not sampled, whose temperature is 1."""
    support: Tensor | None = None
    """[S, T, K] int32 kept ids, -1 in the prompt; None where nothing was cut."""
    score: float | None = None
    """What its record says that the answer is worth; None where it does not."""

    @property
    def key(self) -> tuple[str, int, int]:
        """What tells it from the other rows of a step on this rank."""
        return self.family, self.group, self.member

    @property
    def sampled(self) -> bool:
        """Whether the policy made it."""
        return self.temperatures is not None


class Column(ABC):
    """What a value says of rows: one number a row, or one a token."""

    @abstractmethod
    def of(self, row: Row) -> Tensor | None:
        """The row's part, [] or [S, T]; None where there is none for it."""


@final
@dataclass(frozen=True, slots=True)
class AnswerColumn(Column):
    """A number for every member of every group of one family."""

    family: str
    table: Tensor
    """[P, G]."""
    valid: Tensor
    """Bool [P, G]: where there is one."""

    @override
    def of(self, row: Row) -> Tensor | None:
        place = (row.group, row.member)
        if row.family != self.family or not self.valid[place]:
            return None
        return self.table[place].float()


@final
@dataclass(frozen=True, slots=True)
class CompletionColumn(Column):
    """A number for every token of the completions of one family."""

    family: str
    completions: Sequence[Sequence[Tensor]]
    """[P][G] of [S, Tc]."""

    @override
    def of(self, row: Row) -> Tensor | None:
        if row.family != self.family:
            return None
        found = self.completions[row.group][row.member]
        return torch.cat([torch.zeros(len(found), row.tokens.length - found.shape[1]), found], dim=1)


@final
@dataclass(frozen=True, slots=True)
class RowColumn(Column):
    """A number for every token of rows that were scored."""

    tokens: Mapping[tuple[str, int, int], Tensor]
    """By `Row.key`, [S + E, T]."""

    @override
    def of(self, row: Row) -> Tensor | None:
        return self.tokens.get(row.key)


@final
@dataclass(frozen=True, slots=True)
class ScoreColumn(Column):
    """What records say that their answers are worth."""

    @override
    def of(self, row: Row) -> Tensor | None:
        return None if row.score is None else torch.tensor(row.score)


@final
@dataclass(frozen=True, slots=True)
class FamilyColumn(Column):
    """One number for all rows of a family."""

    numbers: Mapping[str, float]
    """By family."""

    @override
    def of(self, row: Row) -> Tensor | None:
        found = self.numbers.get(row.family)
        return None if found is None else torch.tensor(found)


@final
@dataclass(frozen=True, slots=True)
class TermRows:
    """What one term learns from in a micro-batch."""

    weights: Tensor
    """[B, S + E, T], 0 in rows of other families."""
    valid: Tensor
    """Bool [B]: rows of its family that have every column it needs."""
    rows: Tensor | None
    """[b] indices of its family's rows; None where all are."""
    group: Tensor
    """[b] int64 from 0: which of those rows belong together."""
    member: Tensor
    """[b] int64."""
    groups: int

    def to(self, device: torch.device) -> "TermRows":
        """The same on another device."""
        rows = None if self.rows is None else self.rows.to(device)
        tensors = (self.weights.to(device), self.valid.to(device), rows, self.group.to(device), self.member.to(device))
        return TermRows(*tensors, self.groups)


@final
@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows collated: what one forward sees."""

    number: int
    """Within its update, from 0."""
    rows: tuple[Row, ...]
    tokens: TokenBatch
    support: Tensor | None
    """[B, S + E, T, K] int32."""
    temperature: Tensor
    """[B, S + E]."""
    sampled: Tensor
    """Bool [B]: rows that the policy made."""
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    """By name, [B, S + E, T] or [B, 1, 1]; 0 where a row has none."""
    present: Mapping[str, Tensor] = field(default_factory=dict)
    """By name, bool [B]: rows that have one."""
    terms: Mapping[str, TermRows] = field(default_factory=dict)
    """By term."""

    @property
    def is_idle(self) -> bool:
        """Whether it is there because other ranks have one more."""
        return not self.rows[0].family

    @property
    def forward_tokens(self) -> int:
        """Tokens that a network is given of it, padding among them."""
        packing = self.tokens.packing
        return self.padded_tokens if packing is None else packing.tokens

    @property
    def filled_tokens(self) -> int:
        """Tokens that a network is given of it, without padding."""
        packing = self.tokens.packing
        if packing is None:
            return int(self.tokens.lengths.sum())
        return sum(unit.length for row in packing.arrangement.rows for unit in row)

    @property
    def padded_tokens(self) -> int:
        """B x T."""
        return self.tokens.ids.shape[0] * self.tokens.ids.shape[2]

    def to(self, device: torch.device) -> "MicroBatch":
        """The same on another device."""
        if device.type == "cpu":  # where it was made
            return self
        return replace(
            self,
            tokens=self.tokens.to(device),
            support=None if self.support is None else self.support.to(device),
            temperature=self.temperature.to(device),
            sampled=self.sampled.to(device),
            columns={name: column.to(device) for name, column in self.columns.items()},
            present={name: present.to(device) for name, present in self.present.items()},
            terms={name: term.to(device) for name, term in self.terms.items()},
        )


@final
class MicroBatches:
    """The micro-batches of an update; each goes to the device when its turn comes."""

    def __init__(
        self,
        made: Sequence[MicroBatch],
        device: torch.device,
        counted: Sequence[MicroBatch] | None = None,
        *,
        silent: int = 0,
    ) -> None:
        """`counted` are the rows that sums are divided by, where more count than are run; `silent` teach nothing."""
        self.made, self.counted = tuple(made), tuple(made if counted is None else counted)
        self.silent, self._device = silent, device

    def __iter__(self) -> Iterator[MicroBatch]:
        return (each.to(self._device) for each in self.made)

    def __len__(self) -> int:
        return len(self.made)


def cut_rows(rows: Sequence[Row], size: int, whole: frozenset[str] = frozenset()) -> list[list[Row]]:
    """Cut rows into parts of at most `size`, rows of similar length together; no result depends on the cut.

    Groups of the families in `whole` are never split; one that is larger than `size` is a part of its own.
    """
    blocks = _blocks(rows, whole)
    if size < len(rows):
        blocks.sort(key=lambda block: max(row.tokens.length for row in block))
    parts: list[list[Row]] = []
    for block in blocks:
        if not parts or len(parts[-1]) + len(block) > size:
            parts.append([])
        parts[-1] += block
    return parts


def collate_rows(rows: Sequence[Row], space: TokenSpace, *, number: int) -> MicroBatch:
    """Rows as one right-padded micro-batch, on the CPU."""
    tokens = collate([row.tokens for row in rows], space)
    widths = [row.support.shape[2] for row in rows if row.support is not None]
    support = torch.full((*tokens.ids.shape, max(widths)), -1, dtype=torch.int32) if widths else None
    for index, row in enumerate(rows):
        if row.support is not None and support is not None:
            support[index, :, : row.tokens.length, : row.support.shape[2]] = row.support
    even = (1.0,) * len(space.streams)
    temperature = torch.tensor([even if row.temperatures is None else row.temperatures for row in rows])
    sampled = torch.tensor([row.sampled for row in rows])
    return MicroBatch(number, tuple(rows), tokens, support, temperature, sampled)


def with_columns(batch: MicroBatch, columns: Mapping[str, Column]) -> MicroBatch:
    """`batch` with what `columns` say of its rows."""
    found = {name: [column.of(row) for row in batch.rows] for name, column in columns.items()}
    return replace(
        batch,
        columns={name: _collated(parts, batch.tokens.ids.shape) for name, parts in found.items()},
        present={name: torch.tensor([part is not None for part in parts]) for name, parts in found.items()},
    )


def _collated(parts: Sequence[Tensor | None], shape: torch.Size) -> Tensor:
    """Parts of rows as [B, S + E, T], or [B, 1, 1] where each is one number."""
    if all(part is None or part.dim() == 0 for part in parts):
        return torch.stack([torch.tensor(0.0) if part is None else part for part in parts]).view(-1, 1, 1)
    column = torch.zeros(shape)
    for index, part in enumerate(parts):
        if part is not None:
            column[index, : part.shape[0], : part.shape[1]] = part
    return column


def _blocks(rows: Sequence[Row], whole: frozenset[str]) -> list[list[Row]]:
    """Rows that stay together."""
    blocks: list[list[Row]] = []
    started: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if row.family not in whole:
            blocks.append([row])
        elif (row.family, row.group) in started:
            started[row.family, row.group].append(row)
        else:
            blocks.append(started.setdefault((row.family, row.group), [row]))
    return blocks
