"""What a process was estimated to hold beside the most that one was measured to hold, by part and phase of a step."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from wavalign.engine.compile.plan import Memory, MemoryRow
from wavalign.engine.report.curves import MEMORY
from wavalign.engine.report.data import RunData
from wavalign.engine.state.folder import RunFolder

ESTIMATED = {"sampling": ("collect",), "backward": ("train", "learn"), "step": ("train", "update")}
"""Measured phase -> phases of the estimate that are held in it, beside what is held throughout."""
WHEN = {
    "held": "always",
    "collect": "collecting",
    "train": "learning and updating",
    "learn": "learning",
    "update": "updating",
}


@final
@dataclass(frozen=True, slots=True)
class PhaseMemory:
    """A phase, in bytes of the fullest process."""

    name: str
    estimated: int | None
    """None where no part of the estimate is confined to it."""
    measured: int

    @property
    def difference(self) -> int | None:
        """Measured less estimated."""
        return None if self.estimated is None else self.measured - self.estimated


@final
@dataclass(frozen=True, slots=True)
class StageMemory:
    """A stage."""

    stage: str
    parts: tuple[MemoryRow, ...]
    phases: tuple[PhaseMemory, ...]
    """Those of a step that were measured, and the fullest moment as the last."""


def memories(run: RunData, notes: list[str]) -> list[StageMemory]:
    """Of every stage with both numbers; a file that cannot be read becomes a note."""
    path = RunFolder(run.folder).memory
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        estimates = {name: Memory.model_validate(each) for name, each in content.items()}
    except (ValueError, AttributeError) as error:  # pydantic's are ValueErrors
        notes.append(f"{path.name} is damaged: {type(error).__name__}")
        return []
    found = [_stage(name, memory, _peaks(run, name)) for name, memory in estimates.items()]
    return [each for each in found if each.phases]


def _peaks(run: RunData, stage: str) -> dict[str, int]:
    lines = [line.values for line in run.train if line.stage == stage]
    keys = {phase: f"memory/{phase}_bytes" for phase in MEMORY}
    values = {phase: [values[key] for values in lines if key in values] for phase, key in keys.items()}
    return {phase: int(max(each)) for phase, each in values.items() if each}


def _stage(name: str, memory: Memory, peaks: dict[str, int]) -> StageMemory:
    parts = tuple(sorted((row for row in memory.rows if row.bytes), key=lambda row: -row.bytes))
    phases = [PhaseMemory(phase, _during(memory.rows, phase), peak) for phase, peak in peaks.items()]
    if phases:
        phases.append(PhaseMemory("fullest moment", memory.total, max(peaks.values())))
    return StageMemory(name, parts, tuple(phases))


def _during(rows: Sequence[MemoryRow], phase: str) -> int | None:
    if phase not in ESTIMATED:
        return None
    return sum(row.bytes for row in rows if row.phase in ("held", *ESTIMATED[phase]))
