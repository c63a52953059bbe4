"""A run's copy in an object store: what a resume on an empty machine needs, each checkpoint as it is complete.

What is beside the checkpoint goes first, its files follow, and its manifest is the last: a checkpoint without one is
none. A store that is down costs nothing but the copy: that is said once, counted, and tried again at the next one.
"""

import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import final
from urllib.parse import urlsplit

from wavalign.engine.run.watching import best_step
from wavalign.engine.state.checkpoint import MANIFEST, CheckpointStore
from wavalign.engine.state.folder import RunFolder
from wavalign.errors import CheckpointError, PreflightError, UsageError
from wavalign.storage.copies import Copies, CopyError

OWNER = "copied.json"
"""Says in the folder, and in the store, whose copy it is."""
_PLAN, _FINISHED, _CHECKPOINTS, _STAGES = "plan.json", "finished.json", "checkpoints", "stages"
_NEVER = ("lock.json", _CHECKPOINTS, OWNER)


@final
class RunCopies:
    """The copy of one run; the first rank has it."""

    def __init__(self, folder: RunFolder, store: CheckpointStore, address: str, say: Callable[[str], None]) -> None:
        """Raises CheckpointError where nothing here speaks the address' protocol."""
        self._folder, self._store, self._say, self.copies = folder, store, say, Copies(address)
        self._known: dict[str, tuple[int, int]] = {}
        """Size and time of what was copied, by name."""
        self.began = False
        """Whether the place was not refused."""
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
        self.began = True

    def checkpoint(self, step: int) -> None:
        """Copy what the run has and the checkpoint of `step`, and remove those that are kept no longer."""
        try:
            self._own()
            self._beside()
            self._checkpoint(f"{_CHECKPOINTS}/step-{step}")
            self._prune(step)
        except (CopyError, PreflightError) as error:
            self._fail(error)
            return
        if self.missed:
            self._say(f"{self.copies.shown} takes copies again; {self.missed} were missed")
        self.missed, self.newest = 0, step

    def stage(self) -> None:
        """Copy what the run has once a stage is complete: of sampling and pairing there are no checkpoints."""
        try:
            self._own()
            self._beside()
        except (CopyError, PreflightError) as error:
            self._fail(error)

    def everything(self) -> None:
        """Copy what the run has at its end: final model, report, and as the last the mark that it is complete.

        One that leaves neither a checkpoint nor anything of a stage leaves the place free.
        """
        if not any((*self._folder.checkpoints.glob("step-*"), *self._folder.stages.glob("*/*"))):
            return
        try:
            self._own()
            self._beside(standing=True)
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
        if there == mine.read_text(encoding="utf-8"):
            return
        if there is None or (not self.began and self.copies.text(_PLAN) is None):  # that run ended without a copy
            self.copies.put(mine, OWNER)
        else:
            hint = "name another folder in runtime.checkpoint_store, or go on with that run by --resume --from"
            raise PreflightError(f"{self.copies.shown} holds the copy of another run", hint=hint)

    def _beside(self, *, standing: bool = False) -> None:
        """`standing` says that nobody writes any more."""
        for name, path in _files(self._folder.path, standing=standing):
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

    def _prune(self, step: int) -> None:
        """By the folder's rule, not by what it holds: a run that was fetched has not all of them here."""
        names = self.copies.names()
        known = [known for known in complete_steps(names) if known <= step]  # later ones are of a run that was left
        best = best_step(self._store.at(step))
        kept = set(known) - set(self._store.outdated(known, protected=best))
        there = [name for name in names if name.startswith(f"{_CHECKPOINTS}/")]
        for name in sorted(there, key=lambda name: not name.endswith(f"/{MANIFEST}")):
            if name.split("/")[1] not in {f"step-{each}" for each in kept}:
                self.copies.remove(name)

    def _fail(self, error: CopyError | PreflightError) -> None:
        self.missed += 1
        if self.missed == 1:
            hint = f" ({error.hint})" if error.hint else ""
            self._say(f"{error}{hint}; nothing is lost here, and the next checkpoint tries again")


def _files(folder: Path, *, standing: bool) -> Iterator[tuple[str, Path]]:
    """What is copied beside checkpoints; last the plan, for a folder with one holds a run, and the mark of its end.

    Of stages those that are complete, unless the run is `standing`: others may be written between two of their files.
    """
    complete = {path.parent for path in (folder / _STAGES).glob("*/*" if standing else "*/complete.json")}
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in sorted(found, key=lambda path: (path.name == _FINISHED, path.name == _PLAN)):
        name = path.relative_to(folder)
        if name.parts[0] == _STAGES and folder / Path(*name.parts[:2]) not in complete:
            continue
        if name.parts[0] not in _NEVER and not any(part.startswith(".") for part in name.parts):
            yield str(name), path


def complete_steps(names: Iterable[str]) -> list[int]:
    """Steps of the checkpoints whose manifests are among a copy's `names`, in order."""
    found = (name.split("/") for name in names if name.startswith(f"{_CHECKPOINTS}/") and name.endswith(f"/{MANIFEST}"))
    return sorted(int(parts[1].removeprefix("step-")) for parts in found if len(parts) == 3)


def is_address(at: str) -> bool:
    """Whether it names a place in a store and not a path or a step."""
    return "://" in at and bool(urlsplit(at).scheme)


def checkpoint_in(at: str) -> str:
    """The checkpoint that an address names, `step-N`; empty where it is that of a run."""
    return at.rstrip("/").partition(f"/{_CHECKPOINTS}/")[2]


def fetch_run(at: str, folder: RunFolder, say: Callable[[str], None]) -> None:
    """Fetch the copy at `at` (`URL`, or `URL/checkpoints/step-N`) into a folder that holds no run.

    Of its checkpoints the named or the newest one, and that of the best weights before it where they are watched; sums
    are checked when one is read. Raises UsageError where there is none, CheckpointError where the store does not give
    it.
    """
    folder.check_free()
    address, _, step = at.rstrip("/").partition(f"/{_CHECKPOINTS}/")
    copies = Copies(address)
    try:
        names = copies.names()
        if _PLAN not in names:
            raise UsageError(f"{copies.shown} holds no copy of a run", hint="name what runtime.checkpoint_store named")
        steps = [f"step-{each}" for each in complete_steps(names)]
        if step and step not in steps:
            raise UsageError(f"{copies.shown} has no checkpoint {step}", hint=f"it has: {', '.join(steps) or 'none'}")
        wanted = step or (steps[-1] if steps else "")
        best = _fetch_checkpoint(copies, names, folder, wanted) if wanted else ""
        if best in steps:
            _fetch_checkpoint(copies, names, folder, best)
        for name in sorted(names, key=lambda name: name == _PLAN):
            if not name.startswith(f"{_CHECKPOINTS}/"):
                copies.get(name, folder.path / name)
    except CopyError as error:
        hint = error.hint or "check the connection and the store's credentials"
        raise CheckpointError(str(error), hint=hint) from error
    found = (
        f", with its checkpoint {wanted}{f' and {best}, the best so far' if best in steps else ''}" if wanted else ""
    )
    say(f"fetched the run in {copies.shown} to {folder.path}{found}")


def _fetch_checkpoint(copies: Copies, names: Iterable[str], folder: RunFolder, wanted: str) -> str:
    """Fetch the checkpoint `step-N`; gives that of the best weights before it, empty where it is none or the same."""
    for name in names:
        if name.startswith(f"{_CHECKPOINTS}/{wanted}/"):
            copies.get(name, folder.path / name)
    best = best_step(CheckpointStore(folder.checkpoints, keep=1).at(int(wanted.removeprefix("step-"))))
    return f"step-{best}" if best is not None and wanted != f"step-{best}" else ""
