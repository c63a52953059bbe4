"""The numbers that the memory estimate takes: a stage, its rows and its machine."""

from dataclasses import dataclass
from math import ceil
from typing import final

from wavalign.engine.compile.adapter import WeightCounts
from wavalign.engine.compile.plan import Geometry
from wavalign.plugins.api import Dimensions


@final
@dataclass(frozen=True, slots=True)
class RowSizes:
    """How long rows are expected to be, and how many are measured."""

    streams: int
    prompt: int
    """Tokens of the longest prompt."""
    answer: int
    """Tokens of the longest answer that is learned from."""
    sampled: int = 0
    """Tokens of the longest answer that is sampled."""
    held_out: int = 0
    """Dialogues of the largest held-out split, on one process."""
    singles: int = 1
    """Rows that one dialogue of the data comes to at most: two of a pair."""


@final
@dataclass(frozen=True, slots=True)
class Case:
    """A stage, its sizes and its machine in the numbers that the formula takes."""

    dimensions: Dimensions
    weights: WeightCounts
    geometry: Geometry
    zero: int
    offload: bool
    half: bool
    """Compute in bfloat16."""
    row: RowSizes
    on_cpu: bool = False
    parts_on_host: bool = False
    """Whether parts of parameters lie in host memory."""

    @property
    def streams(self) -> int:
        return self.row.streams

    @property
    def tokens(self) -> int:
        """Of the longest row that is learned from."""
        return self.row.prompt + self.row.answer

    @property
    def scored(self) -> int:
        """Positions of one stream of a micro-batch that a head may score: answers."""
        return self.geometry.micro_batch * self.row.answer

    @property
    def given(self) -> int:
        """Most tokens that the network is given at once."""
        most = self._given_of(self.geometry.micro_batch)
        budget = self.geometry.micro_batch_tokens
        return most if budget is None else min(most, max(budget, self.tokens))

    @property
    def longest_row(self) -> int:
        """Tokens of the longest row that the network is given: what a group shares and the rest of each of its rows."""
        together = max(self.row.singles, self.geometry.group_size) if self.geometry.share_prompts else 1
        return self.row.prompt + min(together, self.geometry.micro_batch) * self.row.answer

    @property
    def accumulates(self) -> bool:
        """Whether an update has several micro-batches."""
        cut = self.geometry
        rows = ceil((cut.rows_per_process + (self.row.singles - 1) * self._data) / cut.mini_batches)
        return cut.accumulation > 1 or rows > cut.micro_batch or self._given_of(rows) > self.given

    @property
    def _data(self) -> int:
        return sum(each.groups_per_process for each in self.geometry.families)

    def _given_of(self, rows: int) -> int:
        """Tokens of a forward over so many rows, those of data among them as far as there are any."""
        cut, row = self.geometry, self.row
        data = min(rows, self._data * row.singles)
        prompts = ceil(data / row.singles) + ceil((rows - data) / max(1, cut.group_size))
        return (prompts if cut.share_prompts else rows) * row.prompt + rows * row.answer

    @property
    def native(self) -> bool:
        """Whether weights themselves are bfloat16, with float32 masters in the optimiser."""
        return self.half and self.zero > 0

    @property
    def width(self) -> int:
        return 2 if self.half else 4

    @property
    def holders(self) -> int:
        """Over how many processes weights are spread; 0 where none of them is on a device."""
        return 0 if self.parts_on_host else self.ranks if self.zero == 3 else 1

    @property
    def ranks(self) -> int:
        return self.geometry.processes if self.zero else 1
