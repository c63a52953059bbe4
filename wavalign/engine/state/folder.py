"""A run's folder: where things stand, who holds it, whether it is finished."""

import fcntl
import json
import os
import secrets
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

from wavalign.engine.state.files import storage_errors, write_json, write_text
from wavalign.errors import FolderBusyError, UsageError


@final
class RunFolder:
    """Paths and lock of one run. Only the first rank takes the lock; reading needs none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @classmethod
    def create(cls, root: Path, *, name: str) -> "RunFolder":
        """A new `root/name/<time>-<id>/`; raises StorageError when it cannot be made."""
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        return cls._made(root / name / f"{stamp}-{secrets.token_hex(3)}")

    @classmethod
    def exact(cls, path: Path) -> "RunFolder":
        """Exactly `path`, made when missing; raises UsageError when a run already stands in it."""
        folder = cls._made(path)
        if folder.plan.exists():
            raise UsageError(f"{path} already holds a run", hint="continue it with --resume, or name another folder")
        return folder

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
    def audio(self) -> Path:
        """Sound of kept answers."""
        return self.path / "audio"

    @property
    def checkpoints(self) -> Path:
        """`step-N/` folders."""
        return self.path / "checkpoints"

    @property
    def stages(self) -> Path:
        """`<name>/`: the model at the end of a stage."""
        return self.path / "stages"

    @property
    def model(self) -> Path:
        """The final model in its original layout."""
        return self.path / "model"

    @property
    def report(self) -> Path:
        """The run's page."""
        return self.path / "report.html"

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
        known = json.loads(self.measures.read_text(encoding="utf-8")) if self.measures.exists() else {}
        if (merged := {**known, **measures}) != known:
            write_json(self.measures, merged)

    def finish(self, *, steps: int) -> None:
        """Mark the run complete."""
        write_json(self.finished, {"steps": steps, "time": datetime.now(UTC).isoformat(timespec="seconds")})

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
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "time": datetime.now(UTC).isoformat()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        self._lock = descriptor

    def unlock(self) -> None:
        """Let go of the folder; harmless when it is not held."""
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    def _holder(self) -> str:
        try:
            holder = json.loads(self._lock_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            # The other process is between taking the lock and writing its name.
            return "another process"
        return f"process {holder['pid']} on {holder['host']}"
