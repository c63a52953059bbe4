"""Checkpoints that are complete or absent: written aside, listed with their sums, renamed at once."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from wavalign.engine.state.files import fsync_folder, storage_errors, write_text
from wavalign.engine.state.side_channel import Meeting
from wavalign.errors import CheckpointError, RankLostError, StorageError
from wavalign.redaction import REDACTOR

MANIFEST = "checkpoint.json"
_ASIDE = ".tmp-"
_STEP = re.compile(r"step-(\d+)")
_CHUNK = 1 << 22


@final
@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose manifest was read; its files are checked by `CheckpointStore.load`."""

    folder: Path
    step: int
    meta: Mapping[str, Any]
    """What was given to `save`, e.g. the plan's fingerprint."""
    files: Mapping[str, tuple[int, str]]
    """Relative path -> size in bytes and SHA-256."""


@final
class CheckpointStore:
    """The checkpoints of one run: `folder/step-N/`, the newest `keep` of them, and those of every `every`th step.

    All ranks must see the same folder. Every method that takes `world` is called by every rank.
    """

    def __init__(self, folder: Path, *, keep: int, every: int = 0) -> None:
        """`every` 0 keeps none but the newest."""
        self._folder, self._keep, self._every = folder, keep, every
        self.protected: int | None = None
        """Step of a checkpoint that is kept beside the newest."""

    def save(self, step: int, write: Callable[[Path], None], *, meta: Mapping[str, Any], world: Meeting) -> Path:
        """Let every rank `write` its files, then make them the checkpoint of `step`; gives its folder.

        Raises StorageError when the disk refuses: what was written aside is removed, older checkpoints stay whole. With
        several ranks only those that were refused raise it, the others lose a rank.
        """
        self.prepare(step, world=world)
        return self.complete(step, write, meta=meta, world=world)

    def prepare(self, step: int, *, world: Meeting) -> None:
        """Make the folder that the files of `step` are written to before they are a checkpoint."""
        with self._aside(step, world) as aside:
            if world.is_first:
                self._folder.mkdir(exist_ok=True)  # without parents: a run's folder that is gone must not come back
                self._sweep()
                aside.mkdir()
            world.barrier()

    def complete(self, step: int, write: Callable[[Path], None], *, meta: Mapping[str, Any], world: Meeting) -> Path:
        """What `save` does once `prepare` was called; may be called in a thread, with the meeting of such threads."""
        target = self._folder / f"step-{step}"
        with self._aside(step, world) as aside:
            write(aside)
            world.barrier()
            files = self._seal(aside, world)
            if world.is_first:
                manifest = {"format": 1, "step": step, "meta": REDACTOR.tree(meta), "files": files}
                sealed = {**manifest, "sha256": _digest(manifest)}
                write_text(aside / MANIFEST, json.dumps(sealed, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
                for folder in sorted({aside, *(path.parent for path in aside.rglob("*"))}):
                    fsync_folder(folder)
                self._move_away(target)
                aside.rename(target)
                fsync_folder(self._folder)
                self._prune()
        world.barrier()
        return target

    @contextmanager
    def _aside(self, step: int, world: Meeting) -> Iterator[Path]:
        """Inside, the files of `step` come to lie in this folder; it is removed where that fails.

        By the first rank alone: others may still write, and are to fail by their own disk or by who is lost.
        """
        aside = self._folder / f"{_ASIDE}step-{step}"
        try:
            with storage_errors(str(self._folder / f"step-{step}")):
                yield aside
        except (StorageError, RankLostError):
            if world.is_first:
                shutil.rmtree(aside, ignore_errors=True)
            raise

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, in order; those being written when a run was killed are none."""
        found = [_STEP.fullmatch(path.name) for path in self._folder.glob("step-*")]
        return sorted(int(match[1]) for match in found if match)

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint, None when there is none; raises CheckpointError when its manifest is damaged."""
        steps = self.steps()
        return self.at(steps[-1]) if steps else None

    def at(self, step: int) -> Checkpoint:
        """The checkpoint of a step; raises CheckpointError when it is missing or its manifest is damaged."""
        return self._read(step)

    def folder_of(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self._folder / f"step-{step}"

    def is_writing(self) -> bool:
        """Whether a checkpoint is half written."""
        return any(self._folder.glob(f"{_ASIDE}step-*"))

    def outdated(self, steps: Sequence[int], *, protected: int | None) -> list[int]:
        """Those of `steps`, in order, that are kept no longer."""
        return [
            step for step in steps[: -self._keep] if step != protected and (not self._every or step % self._every != 0)
        ]

    def set_aside(self, after: int) -> Path | None:
        """Move the checkpoints after step `after` to `set-aside-<n>/`, newest first; gives that folder."""
        later = [step for step in self.steps() if step > after]
        if not later:
            return None
        number = 1
        while (aside := self._folder / f"set-aside-{number}").exists():
            number += 1
        with storage_errors(str(aside)):
            aside.mkdir()
            for step in reversed(later):
                (self._folder / f"step-{step}").rename(aside / f"step-{step}")
            fsync_folder(self._folder)
        return aside

    def load(self, checkpoint: Checkpoint, read: Callable[[Path], None], *, world: Meeting) -> None:
        """Check every file against the manifest, then let every rank `read` the folder.

        Raises CheckpointError on every rank, naming the file, when one is missing, torn or changed.
        """
        names = sorted(checkpoint.files)[world.rank :: world.size]
        found = (_problem(checkpoint.folder / name, *checkpoint.files[name]) for name in names)
        problems = [problem for part in world.gather([p for p in found if p]) for problem in part]
        if problems:
            raise self._damaged(checkpoint.step, problems[0])
        read(checkpoint.folder)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _read(self, step: int) -> Checkpoint:
        folder = self._folder / f"step-{step}"
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if manifest.pop("sha256") != _digest(manifest):
                raise self._damaged(step, f"{folder / MANIFEST} was changed after it was written")
            files = {name: (int(entry["size"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
            return Checkpoint(folder, int(manifest["step"]), manifest["meta"], files)
        except FileNotFoundError:
            raise self._damaged(step, f"{folder / MANIFEST} is missing") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damaged(step, f"{folder / MANIFEST} cannot be read: {error}") from error

    def _damaged(self, step: int, problem: str) -> CheckpointError:
        for earlier in reversed([earlier for earlier in self.steps() if earlier < step]):
            if self._is_intact(earlier):
                hint = f"remove {self._folder / f'step-{step}'} to continue from step {earlier}, which is intact"
                return CheckpointError(f"checkpoint of step {step} is damaged: {problem}", hint=hint)
        hint = "there is no earlier checkpoint that is intact: start the run again in another folder"
        return CheckpointError(f"checkpoint of step {step} is damaged: {problem}", hint=hint)

    def _is_intact(self, step: int) -> bool:
        try:
            checkpoint = self._read(step)
        except CheckpointError:
            return False
        return not any(_problem(checkpoint.folder / name, *entry) for name, entry in checkpoint.files.items())

    def _seal(self, aside: Path, world: Meeting) -> dict[str, dict[str, Any]]:
        """Flush and sum all files, each rank its share; gives the manifest's entries."""
        names = sorted(str(path.relative_to(aside)) for path in aside.rglob("*") if path.is_file())
        mine = {}
        for name in names[world.rank :: world.size]:
            with (aside / name).open("rb") as file:
                os.fsync(file.fileno())
            mine[name] = {"size": (aside / name).stat().st_size, "sha256": _sum(aside / name)}
        return {name: entry for part in world.gather(mine) for name, entry in part.items()}

    def _sweep(self) -> None:
        """Remove what killed runs left half done."""
        for path in self._folder.glob(f"{_ASIDE}*"):
            shutil.rmtree(path)

    def prune(self) -> None:
        """Remove what a save that was cut short had not yet removed; the first rank alone calls it."""
        with storage_errors(str(self._folder)):
            self._prune()

    def _prune(self) -> None:
        for step in self.outdated(self.steps(), protected=self.protected):
            self._move_away(self._folder / f"step-{step}")
        self._sweep()

    def _move_away(self, path: Path) -> None:
        """Rename first: a removal that is cut short must not leave half a checkpoint under its name."""
        if path.exists():
            path.rename(path.with_name(f"{_ASIDE}removed-{path.name}"))


def _digest(manifest: Mapping[str, Any]) -> str:
    """Sum of what the manifest says, however it is spaced."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _problem(path: Path, size: int, digest: str) -> str:
    """What is wrong with a file, or nothing."""
    try:
        found = path.stat().st_size
        if found != size:
            return f"{path} has {found} bytes instead of {size}"
        return "" if _sum(path) == digest else f"{path} was changed after it was written"
    except FileNotFoundError:
        return f"{path} is missing"
    except OSError as error:
        return f"{path} cannot be read: {error}"
