"""A run's folder: its paths, its lock, whether it is finished."""

import fcntl
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

from wavalign.engine.state.files import read_json, storage_errors, write_json, write_text
from wavalign.engine.state.rank_lock import check_rank_free
from wavalign.errors import FolderBusyError, StorageError, UsageError

_HALF_WRITTEN = re.compile(r"\..+\.([0-9a-f]{32}|writing)|\.tmp-.+")
"""Names under which files and folders are written before they are renamed."""


@final
class RunFolder:
    """Paths and lock of one run. Only the first rank takes the lock; reading needs none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None
        self._inherited = False

    @classmethod
    def create(cls, root: Path, *, name: str) -> "RunFolder":
        """A new `root/name/<time>-<id>/`; raises StorageError when it cannot be made."""
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        return cls._made(root / name / f"{stamp}-{secrets.token_hex(3)}")

    @classmethod
    def exact(cls, path: Path) -> "RunFolder":
        """Exactly `path`, made when missing; raises UsageError when a run already stands in it."""
        folder = cls._made(path)
        folder.check_free()
        return folder

    def check_free(self) -> None:
        """Raise UsageError when a run stands in the folder."""
        if self.plan.exists():
            hint = "continue it with --resume, or name another folder"
            raise UsageError(f"{self.path} already holds a run", hint=hint)

    @classmethod
    def latest_unfinished(cls, root: Path, *, name: str) -> "RunFolder | None":
        """The youngest run of `name` under `root` that was planned and not finished."""
        folders = [cls(plan.parent) for plan in (root / name).glob("*/plan.json")]
        open_ones = [folder for folder in folders if not folder.is_finished]
        return max(open_ones, key=lambda folder: (folder.plan.stat().st_mtime_ns, folder.path.name), default=None)

    @classmethod
    def _made(cls, path: Path) -> "RunFolder":
        with storage_errors(str(path)):
            path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    # --- what is where ------------------------------------------------------------------------------------------------

    @property
    def recipe(self) -> Path:
        """The recipe with everything resolved."""
        return self.path / "recipe.resolved.yaml"

    @property
    def plan(self) -> Path:
        """What the compiler decided."""
        return self.path / "plan.json"

    @property
    def environment(self) -> Path:
        """Versions, hardware, command."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """One line per step and split."""
        return self.path / "metrics.jsonl"

    @property
    def rollouts(self) -> Path:
        """One line per kept answer."""
        return self.path / "rollouts.jsonl"

    @property
    def evaluation(self) -> Path:
        """One line per held-out item of every evaluation."""
        return self.path / "evaluation.jsonl"

    @property
    def measures(self) -> Path:
        """What the held-out values mean."""
        return self.path / "measures.json"

    @property
    def inputs(self) -> Path:
        """Content sums of what the run reads."""
        return self.path / "inputs.json"

    @property
    def audio(self) -> Path:
        """Sound of kept answers."""
        return self.path / "audio"

    @property
    def checkpoints(self) -> Path:
        """`step-N/` folders."""
        return self.path / "checkpoints"

    @property
    def skipped(self) -> Path:
        """`step-N/`: updates whose gradients were no numbers."""
        return self.path / "skipped"

    @property
    def stages(self) -> Path:
        """`<name>/`: the model at the end of a stage."""
        return self.path / "stages"

    def complete(self, stage: str) -> Path:
        """Stands there once a stage has left its model."""
        return self.stages / stage / "complete.json"

    @property
    def model(self) -> Path:
        """The final model in its original layout."""
        return self.path / "model"

    @property
    def best(self) -> Path:
        """Which weights `model` holds, where the best are kept: their step, and the value they were chosen by."""
        return self.path / "best.json"

    @property
    def report(self) -> Path:
        """The run's page."""
        return self.path / "report.html"

    @property
    def memory(self) -> Path:
        """What the stages were estimated to hold."""
        return self.path / "memory.json"

    @property
    def log(self) -> Path:
        """What the run said."""
        return self.path / "log.txt"

    @property
    def ranks(self) -> Path:
        """What the processes other than the first said."""
        return self.path / "ranks"

    @property
    def finished(self) -> Path:
        """Stands there once the run is complete."""
        return self.path / "finished.json"

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end."""
        return self.finished.exists()

    # --- writing ------------------------------------------------------------------------------------------------------

    def write_text(self, path: Path, text: str) -> None:
        """Replace a file of this folder at once."""
        write_text(path, text)

    def write_json(self, path: Path, value: dict[str, Any]) -> None:
        """Replace a file of this folder by JSON at once."""
        write_json(path, value)

    def add_measures(self, measures: Mapping[str, Mapping[str, str]]) -> None:
        """Say what held-out values mean, beside those said before."""
        known = read_json(self.measures) if self.measures.exists() else {}
        if (merged := {**known, **measures}) != known:
            write_json(self.measures, merged)

    def finish(self, *, planned: int) -> None:
        """Mark the run of `planned` steps complete; the last that is written."""
        write_json(self.finished, {"planned": planned, "time": datetime.now(UTC).isoformat(timespec="seconds")})

    def sweep(self) -> None:
        """Remove what a killed process left half written; call it with the lock held."""
        with storage_errors(str(self.path)):
            hidden = [*self.path.glob(".*"), *self.stages.glob("*/.*"), *self.checkpoints.glob(".*")]
            for path in [path for path in hidden if _HALF_WRITTEN.fullmatch(path.name)]:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    # --- the lock -----------------------------------------------------------------------------------------------------

    @property
    def _lock_path(self) -> Path:
        return self.path / "lock.json"

    def lock(self) -> None:
        """Hold the folder until `unlock` or the end of this process; raises FolderBusyError naming the holder.

        The kernel keeps the lock, so that of a process which died is free again; the file only says whose it is.
        """
        with storage_errors(str(self._lock_path)):
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise FolderBusyError(
                f"{self.path} is in use by {self._holder()}", hint="wait for that run, stop it, or use another folder"
            ) from None
        try:
            check_rank_free(self.path)
        except FolderBusyError:
            os.close(descriptor)
            raise
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "time": datetime.now(UTC).isoformat()}
        with storage_errors(str(self._lock_path)):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        self._lock, self._inherited = descriptor, False

    def inherit_lock(self, descriptor: int) -> None:
        """Hold the lock that the process which started this one took: it is free when the last of them has ended."""
        self._lock, self._inherited = descriptor, True

    @property
    def lock_descriptor(self) -> int | None:
        """The open lock, to be inherited; None when it is not held."""
        return self._lock

    def check_held(self) -> None:
        """Raise StorageError where the folder that was locked is not there any more, or another stands in its place."""
        if self._lock is None:
            return
        try:
            there = os.stat(self._lock_path)
        except OSError as error:
            raise _gone(self.path) from error
        if (there.st_dev, there.st_ino) != (os.fstat(self._lock).st_dev, os.fstat(self._lock).st_ino):
            raise _gone(self.path)

    def unlock(self) -> None:
        """Release the lock; harmless when it is not held."""
        if self._lock is not None:
            if not self._inherited:
                with suppress(OSError):  # what it says of the holder is only for people
                    os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    def _holder(self) -> str:
        try:
            holder = json.loads(self._lock_path.read_text(encoding="utf-8"))
            return f"process {holder['pid']} on {holder['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            # The other process is between taking the lock and writing its name, or the file was damaged.
            return "another process"


def _gone(path: Path) -> StorageError:
    return StorageError(
        f"{path} was removed or replaced while the run wrote to it",
        hint="what the run had written is gone; start a new run, in a folder that stays",
    )
