"""A run's copy in an object store: what a resume on an empty machine needs, each checkpoint as it is complete.

What is beside the checkpoint goes first, its files follow, and its manifest is the last: a checkpoint without one is
none. A store that is down costs nothing but the copy: that is said once, counted, and tried again at the next one.
"""

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import final
from urllib.parse import urlsplit

from wavalign.engine.state.checkpoint import MANIFEST
from wavalign.engine.state.folder import RunFolder
from wavalign.errors import CheckpointError, PreflightError, UsageError
from wavalign.storage.copies import Copies, CopyError

OWNER = "copied.json"
"""Says in the folder, and in the store, whose copy it is."""
_PLAN, _FINISHED, _CHECKPOINTS = "plan.json", "finished.json", "checkpoints"
_NEVER = ("lock.json", _CHECKPOINTS, OWNER)


@final
class RunCopies:
    """The copy of one run; the first rank has it."""

    def __init__(self, folder: RunFolder, address: str, say: Callable[[str], None]) -> None:
        """Raises CheckpointError where nothing here speaks the address' protocol."""
        self._folder, self._say, self.copies = folder, say, Copies(address)
        self._known: dict[str, tuple[int, int]] = {}
        """Size and time of what was copied, by name."""
        self.missed = 0
        """Copies in a row that failed."""
        self.newest = -1
        """Step of the checkpoint that was copied last."""

    def begin(self) -> None:
        """Refuse a place that holds another run's copy, is none, or does not let this run in.

        A store that is down is waited for while the run goes on.
        """
        try:
            self._own()
            if not self._folder.is_finished and self.copies.text(_FINISHED) is not None:
                self.copies.remove(_FINISHED)  # the run goes on from an earlier checkpoint, or for more steps
        except CopyError as error:
            if error.hint:
                raise PreflightError(f"runtime.checkpoint_store: {error}", hint=error.hint) from error
            self._fail(error)

    def checkpoint(self, step: int) -> None:
        """Copy what the run has and the checkpoint of `step`, and remove those that are no longer kept here."""
        try:
            self._own()
            self._beside()
            self._checkpoint(f"{_CHECKPOINTS}/step-{step}")
            self._prune()
        except (CopyError, PreflightError) as error:
            self._fail(error)
            return
        if self.missed:
            self._say(f"{self.copies.shown} takes copies again; {self.missed} were missed")
        self.missed, self.newest = 0, step

    def everything(self) -> None:
        """Copy what the run has at its end: final model, report, and as the last the mark that it is complete."""
        try:
            self._own()
            self._beside()
        except (CopyError, PreflightError) as error:
            self._fail(error)
        if self.missed:
            self._say(
                f"{self.copies.shown}: the last {self.missed} copies are missing there; {self._folder.path} has all"
            )

    def give_up(self) -> None:
        """Say that the store does not answer and gets nothing more; the process ends when its last call does."""
        self._say(f"{self.copies.shown} does not answer: it is left, and {self._folder.path} has all")

    # --- inside -------------------------------------------------------------------------------------------------------

    def _own(self) -> None:
        """Raise PreflightError where the copy there is another run's."""
        mine = self._folder.path / OWNER
        if not mine.exists():
            self._folder.write_json(mine, {"run": secrets.token_hex(16)})
        there = self.copies.text(OWNER)
        if there is None:
            self.copies.put(mine, OWNER)
        elif there != mine.read_text(encoding="utf-8"):
            hint = "name another folder in runtime.checkpoint_store, or go on with that run by --resume --from"
            raise PreflightError(f"{self.copies.shown} holds the copy of another run", hint=hint)

    def _beside(self) -> None:
        for name, path in _files(self._folder.path):
            try:
                found = path.stat()
            except FileNotFoundError:  # replaced by another meanwhile
                continue
            state = (found.st_size, found.st_mtime_ns)
            if self._known.get(name) != state:
                self.copies.put(path, name)
                self._known[name] = state

    def _checkpoint(self, name: str) -> None:
        folder = self._folder.path / name
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in sorted(files, key=lambda path: path.name == MANIFEST):
            self.copies.put(path, f"{name}/{path.relative_to(folder)}")

    def _prune(self) -> None:
        here = {path.name for path in self._folder.checkpoints.glob("step-*")}
        there = [name for name in self.copies.names() if name.startswith(f"{_CHECKPOINTS}/")]
        for name in sorted(there, key=lambda name: not name.endswith(f"/{MANIFEST}")):
            if name.split("/")[1] not in here:
                self.copies.remove(name)

    def _fail(self, error: CopyError | PreflightError) -> None:
        self.missed += 1
        if self.missed == 1:
            hint = f" ({error.hint})" if error.hint else ""
            self._say(f"{error}{hint}; nothing is lost here, and the next checkpoint tries again")


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """What is copied beside checkpoints; last the plan, for a folder with one holds a run, and the mark of its end."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in sorted(found, key=lambda path: (path.name == _FINISHED, path.name == _PLAN)):
        name = path.relative_to(folder)
        if name.parts[0] not in _NEVER and not any(part.startswith(".") for part in name.parts):
            yield str(name), path


def is_address(at: str) -> bool:
    """Whether it names a place in a store and not a path or a step."""
    return "://" in at and bool(urlsplit(at).scheme)


def checkpoint_in(at: str) -> str:
    """The checkpoint that an address names, `step-N`; empty where it is that of a run."""
    return at.rstrip("/").partition(f"/{_CHECKPOINTS}/")[2]


def fetch_run(at: str, folder: RunFolder, say: Callable[[str], None]) -> None:
    """Fetch the copy at `at` (`URL`, or `URL/checkpoints/step-N`) into a folder that holds no run.

    Of its checkpoints the named or the newest one; its sums are checked when it is read. Raises UsageError where there
    is none, CheckpointError where the store does not give it.
    """
    folder.check_free()
    address, _, step = at.rstrip("/").partition(f"/{_CHECKPOINTS}/")
    copies = Copies(address)
    try:
        names = copies.names()
        if _PLAN not in names:
            raise UsageError(f"{copies.shown} holds no copy of a run", hint="name what runtime.checkpoint_store named")
        complete = [name.split("/")[1] for name in names if name.endswith(f"/{MANIFEST}") and name.count("/") == 2]
        steps = sorted(complete, key=lambda name: int(name.removeprefix("step-")))
        if step and step not in steps:
            raise UsageError(f"{copies.shown} has no checkpoint {step}", hint=f"it has: {', '.join(steps) or 'none'}")
        wanted = step or (steps[-1] if steps else "")
        for name in sorted(names, key=lambda name: name == _PLAN):
            if not name.startswith(f"{_CHECKPOINTS}/") or name.split("/")[1] == wanted:
                copies.get(name, folder.path / name)
    except CopyError as error:
        hint = error.hint or "check the connection and the store's credentials"
        raise CheckpointError(str(error), hint=hint) from error
    say(f"fetched the run in {copies.shown} to {folder.path}{f', with its checkpoint {wanted}' if wanted else ''}")
