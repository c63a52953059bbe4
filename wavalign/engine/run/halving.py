"""A micro-batch that did not fit into memory: its run goes on from its checkpoint with half as many rows, once a stage.

The rank that met it leaves a mark in the run's folder before it ends. Who starts the ranks reads the marks, writes how
many rows a micro-batch of the stage may have from then on, and starts them again; so every rank cuts alike whatever its
engine was doing when one of them failed. Sums over tokens do not depend on the cut: docs/faults.md.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wavalign.engine.compile.plan import Memory
from wavalign.engine.state.files import read_json, write_json
from wavalign.errors import OutOfMemoryError

_MIB = 2**20
_LIMITS = "micro_batches.json"
"""By stage, the rows that a micro-batch has at most."""
_MARK = ".out-of-memory-{rank}.json"


def most_rows(folder: Path, stage: str) -> int | None:
    """Rows that a micro-batch of the stage has at most; None where nothing was halved."""
    path = folder / _LIMITS
    return int(read_json(path)[stage]) if path.exists() and stage in read_json(path) else None


def leave_mark(folder: Path, rank: int, error: OutOfMemoryError) -> None:
    """Say which micro-batch of this rank did not fit."""
    mark = {"message": error.message, "stage": error.stage, "rows": error.rows, "peak_bytes": error.peak_bytes}
    write_json(folder / _MARK.format(rank=rank), mark)


def halve(folder: Path) -> str:
    """Take the marks that ranks left; gives what a person is to hear, empty where there is no mark.

    Raises OutOfMemoryError where the stage was halved before, or a micro-batch of one row did not fit.
    """
    marks = _taken(folder)
    if not marks:
        return ""
    least = min(marks, key=lambda mark: int(mark["rows"]))
    stage, rows = str(least["stage"]), int(least["rows"])
    before = most_rows(folder, stage)
    if before is not None or rows < 2:
        why = "its micro-batches were halved before" if before is not None else "one row cannot be halved"
        raise OutOfMemoryError(
            f"{least['message']}; {why}",
            hint="set runtime.gradient_checkpointing, shorter answers or another engine, or take a larger device",
            stage=stage,
            rows=rows,
            peak_bytes=max(int(mark["peak_bytes"]) for mark in marks),
        )
    path, half = folder / _LIMITS, (rows + 1) // 2
    write_json(path, {**(read_json(path) if path.exists() else {}), stage: half})
    return (
        f"{least['message']}: from here on micro-batches of stage {stage} have at most {half} rows, "
        "and the run goes on from its newest checkpoint"
    )


def explained(error: OutOfMemoryError, estimate: Callable[[], dict[str, Memory]]) -> OutOfMemoryError:
    """The error with what was estimated beside what was measured."""
    memory = estimate().get(error.stage)
    if memory is None:
        return error
    beside = f"{memory.total / _MIB:,.0f} MiB were estimated, {error.peak_bytes / _MIB:,.0f} MiB were measured"
    message = f"{error.message}; {beside}, of {memory.capacity / _MIB:,.0f} MiB"
    return OutOfMemoryError(
        message, hint=error.hint, stage=error.stage, rows=error.rows, peak_bytes=error.peak_bytes
    )  # fmt: skip


def _taken(folder: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(folder.glob(_MARK.format(rank="*"))):
        found.append(json.loads(path.read_text(encoding="utf-8")))
        path.unlink()
    return found
