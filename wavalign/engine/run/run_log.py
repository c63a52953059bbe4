"""What a run writes line by line: its .jsonl files and the trackers, on the first rank."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

from wavalign.engine.state.folder import RunFolder
from wavalign.engine.state.metrics import EVALUATION_NULLABLE, METRICS_NULLABLE, ROLLOUTS_NULLABLE, MetricsWriter
from wavalign.errors import PluginError, ResumeError, WavAlignError
from wavalign.plugins.api import Tracker
from wavalign.redaction import REDACTOR


@final
class RunLog:
    """The files of lines and the trackers; before `open`, and so on the other ranks, nothing is written."""

    def __init__(self, folder: RunFolder, say: Callable[[str], None]) -> None:
        self._paths = {
            "metrics": (folder.metrics, METRICS_NULLABLE),
            "rollouts": (folder.rollouts, ROLLOUTS_NULLABLE),
            "evaluation": (folder.evaluation, EVALUATION_NULLABLE),
        }
        self._say = say
        self._writers: dict[str, MetricsWriter] = {}
        self._trackers: list[Tracker] = []

    def open(
        self, make_trackers: Callable[[], Sequence[Tracker]], kept: Sequence[Mapping[str, Any]], *, resume: bool
    ) -> None:
        """Open the files and cut away what stands behind the furthest of the `kept` positions, all where there is none.

        Raises ResumeError when a file is not what it was at that position.
        """
        furthest = max(kept, key=lambda each: int(each["metrics"]["bytes"]), default={})
        for name, (path, nullable) in self._paths.items():
            self._writers[name] = writer = MetricsWriter(path, nullable=nullable)
            place = furthest.get(name, {"bytes": 0, "sha256": None})
            writer.rewind(int(place["bytes"]), place["sha256"])
        self._trackers = list(make_trackers())
        if resume:
            last = _last_steps(self._paths["metrics"][0])
            self._tell(lambda tracker: tracker.resume(dict(last)))

    @property
    def is_open(self) -> bool:
        """Whether this rank writes."""
        return bool(self._writers)

    def metrics(self, values: Mapping[str, float], *, stage: str, step: int, split: str) -> None:
        """Write one line of metrics and tell the trackers."""
        if not self._writers:
            return
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._writers["metrics"].write({"stage": stage, "step": step, "split": split, "time": time, **values})
        shown = REDACTOR.tree(values)
        self._tell(lambda tracker: tracker.log(dict(shown), step=step, split=split))

    def rollouts(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write lines of rollouts.jsonl."""
        self._write("rollouts", lines)

    def outcomes(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write lines of evaluation.jsonl."""
        self._write("evaluation", lines)

    def position(self) -> dict[str, dict[str, Any]]:
        """Where each file ends, and the sum of what it holds; not yet safe on the disk."""
        return {name: {"bytes": each.offset, "sha256": each.sha256} for name, each in self._writers.items()}

    def sync(self) -> None:
        """Make every line survive a power cut; called before a position is remembered."""
        for writer in self._writers.values():
            writer.sync()

    def close(self) -> None:
        """Close files and trackers."""
        self._tell(lambda tracker: tracker.close())
        self._trackers = []
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def _write(self, name: str, lines: Iterable[Mapping[str, Any]]) -> None:
        if self._writers:
            for line in lines:
                self._writers[name].write(line)

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                what(tracker)
            except WavAlignError as error:  # of whatever it raised its guard has made one
                self._trackers.remove(tracker)
                if isinstance(error, PluginError):
                    error.keep_traceback()
                self._say(f"{error.message}; it was switched off and the run goes on; {error.hint}")


def _last_steps(path: Path) -> dict[str, int]:
    """By split the last step that has a line."""
    last: dict[str, int] = {}
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
                last[str(line["split"])] = int(line["step"])
            except (ValueError, KeyError, TypeError) as error:
                raise ResumeError(
                    f"{path}:{number} is no line of metrics: {error}",
                    hint="the file was damaged; resume from a copy of the folder that is whole",
                ) from error
    return last
