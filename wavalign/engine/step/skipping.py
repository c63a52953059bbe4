"""Updates whose gradients are NaN or infinite: not taken, counted, said, and after so many in a row the run's end.

Such an update moves neither weights nor optimiser. All else of its step goes on: the place in the data, the gate, what
rewards remember, the learning rate's schedule. A loss that is no number makes its gradients none (`learning.py`), and
the norm of the gradients is that of all ranks; so every rank skips the same updates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor

from wavalign.engine.step.batches import MicroBatch, Row, TermRows
from wavalign.engine.step.records_as_bytes import as_bytes, from_bytes
from wavalign.errors import NonFiniteError
from wavalign.plugins.batch import SoundSegment, TokenBatch, TokenSequence
from wavalign.plugins.packing import Arrangement, Packing, PackingOptions, Unit

SAID = 3
"""Skipped updates of a stage that are said; the others are only counted."""


@final
@dataclass(frozen=True, slots=True)
class UpdateRecord:
    """What one rank computed an update of: with the weights before it, all that its gradients hang on."""

    step: int
    """Of the stage, from 0."""
    update: int
    """Of the step, from 0."""
    gate: float | None
    """None where no term's share follows a gate."""
    denominators: Mapping[str, Tensor]
    """By term, [2] float64."""
    micro_batches: tuple[MicroBatch, ...]
    """On the CPU."""

    def to_bytes(self) -> bytes:
        """The record as a file."""
        return as_bytes(self)

    @staticmethod
    def from_bytes(data: bytes) -> "UpdateRecord":
        """The record of `to_bytes`; raises ResumeError where it is none."""
        found = from_bytes(data, _RECORDS)
        assert isinstance(found, UpdateRecord)
        return found


_RECORDS = (
    UpdateRecord, MicroBatch, Row, TermRows, TokenBatch, TokenSequence, SoundSegment, Packing, PackingOptions,
    Arrangement, Unit,
)  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class Skipped:
    """An update that was not taken."""

    what: str
    """What is no number, in words; of all ranks."""
    record: UpdateRecord
    """Of this rank."""
    is_last: bool
    """Whether the run ends with it."""


@final
class SkipWatch:
    """How many updates of a stage were skipped; equal on every rank."""

    def __init__(self, limit: int) -> None:
        """The run ends at the `limit`th in a row."""
        self._limit = limit
        self.total, self.in_a_row = 0, 0
        self._notes: list[str] = []

    def taken(self) -> None:
        """An update moved the weights."""
        self.in_a_row = 0

    @property
    def is_last(self) -> bool:
        """Whether one more is one too many."""
        return self.in_a_row + 1 >= self._limit

    def skip(self, what: str, where: str, kept: Path | None) -> None:
        """Count one; raises NonFiniteError where there were too many in a row."""
        self.total += 1
        self.in_a_row += 1
        look = f"`wavalign run --replay {kept}` shows where it begins; " if kept is not None else ""
        if self.in_a_row >= self._limit:
            row = f", {self.in_a_row} updates in a row" if self.in_a_row > 1 else ""
            raise NonFiniteError(
                f"{what} at {where}{row}; the weights were not updated (runtime.non_finite_limit is {self._limit})",
                hint=f"{look}lower optim.learning_rate, or look at the data of this step",
            )
        if self.total <= SAID:
            end = "; further ones are only counted" if self.total == SAID else ""
            self._notes.append(f"{what} at {where}; {look}this update was skipped{end}")

    def notes(self) -> Sequence[str]:
        """What a person should hear of the step's updates; once."""
        found, self._notes = self._notes, []
        return found

    def state_dict(self) -> Mapping[str, Any]:
        """The counts, once there is something to count."""
        return {"total": self.total, "in_a_row": self.in_a_row} if self.total else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict()`."""
        self.total, self.in_a_row = int(state["total"]), int(state["in_a_row"])
