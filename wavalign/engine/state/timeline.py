"""When the operators of a step began and ended, for a person who asks where the time goes.

A file a rank in the run's folder, a line a step: `stage`, `step`, `rank`, `start` (seconds since 1970) and `spans`,
each [operator, lane, milliseconds from the start, milliseconds]. Lane 0 is the process's main thread, others are
operators beside it. On a GPU these are times of the host, which waits for the device where a number is read.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import final

FOLDER = "timeline"
"""Within a run's."""
_DIGITS = 3


@final
class Spans:
    """The operators of one step, from any thread."""

    def __init__(self) -> None:
        self.start, self._zero = time.time(), time.perf_counter()
        self._main = threading.get_ident()
        self._lanes: dict[int, int] = {self._main: 0}
        self._lock = threading.Lock()
        self.found: list[tuple[str, int, float, float]] = []

    @contextmanager
    def of(self, operator: str) -> Iterator[None]:
        """Keep how long the block takes."""
        began = time.perf_counter()
        try:
            yield
        finally:
            ended = time.perf_counter()
            with self._lock:
                lane = self._lanes.setdefault(threading.get_ident(), len(self._lanes))
                after, took = (round(1000 * each, _DIGITS) for each in (began - self._zero, ended - began))
                self.found.append((operator, lane, after, took))

    def seconds(self) -> dict[str, float]:
        """By operator that has ended, all its times in the step."""
        with self._lock:
            found = tuple(self.found)
        sums: dict[str, float] = {}
        for operator, _, _, took in found:
            sums[operator] = sums.get(operator, 0.0) + took / 1000
        return sums


@final
class Timeline:
    """Writes the steps of one rank: the first and every so many; a disk that refuses ends it, and no run."""

    def __init__(self, folder: Path, *, rank: int, every: int) -> None:
        """`every` 0 writes none."""
        self._path, self._rank, self._every = folder / FOLDER / f"rank-{rank}.jsonl", rank, every

    def wants(self, step: int) -> bool:
        """Whether step `step` (from 1) is written."""
        return bool(self._every) and (step == 1 or step % self._every == 0)

    def write(self, spans: Spans, *, stage: str, step: int) -> None:
        """Add a line."""
        line = {"stage": stage, "step": step, "rank": self._rank, "start": spans.start, "spans": spans.found}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, separators=(",", ":")) + "\n")
        except OSError:
            self._every = 0
