"""A folder of an object store that files are copied to: read back and compared, tried again, and whole or not there.

No message repeats what a library says of a request, for that may carry keys.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, final

from fsspec.implementations.local import LocalFileSystem

from wavalign.errors import StorageError
from wavalign.storage.stores import PIECE, WHO, FsspecStore, library_errors

TRIES = 4
"""How often a file is tried before the store counts as down."""
FIRST_PAUSE = 0.5
"""Seconds before the second try; every further pause is twice as long."""
_NO_PLACE = "does the bucket exist, under this name and at this endpoint? buckets are not made here"


@final
class CopyError(Exception):
    """A store did not take, or did not give, a file."""

    def __init__(self, message: str, hint: str = "", *, again: bool = True) -> None:
        super().__init__(message)
        self.hint = hint
        """What to do, where the store is there and refuses; empty where it may be down."""
        self.again = again
        """Whether the same may go well a moment later."""


@final
class Copies:
    """The files of one folder elsewhere, by their names in it."""

    def __init__(self, address: str) -> None:
        """Raises CheckpointError where nothing here speaks the address' protocol."""
        store = FsspecStore(address)
        self.shown = store.shown
        self._fs, self._root = store.opened
        self.stop = threading.Event()
        """Set, it ends what is under way by a CopyError."""

    def names(self) -> dict[str, int]:
        """Sizes in bytes by name."""
        found: dict[str, int] = self._tried("its list", self._listed)
        return found

    def put(self, path: Path, name: str) -> None:
        """Copy a file, read it back and compare; raises CopyError where the store keeps something else."""
        self._tried(name, lambda: self._put(path, name))

    def get(self, name: str, path: Path) -> None:
        """Fetch a file; raises CopyError, or StorageError where it cannot be written here."""
        self._tried(name, lambda: self._get(name, path))

    def text(self, name: str) -> str | None:
        """A small file's text, None where it is not there."""
        found: str | None = self._tried(name, lambda: self._text(name))
        return found

    def remove(self, name: str) -> None:
        """Remove a file."""
        self._tried(name, lambda: self._remove(name))

    def _place(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _listed(self) -> dict[str, int]:
        self._fs.invalidate_cache()
        prefix = self._root.lstrip("/") + "/"
        try:
            found = self._fs.find(self._root, detail=True)
        except FileNotFoundError:
            return {}
        return {path.lstrip("/").removeprefix(prefix): int(each["size"]) for path, each in found.items()}

    def _put(self, path: Path, name: str) -> None:
        if isinstance(self._fs, LocalFileSystem):
            self._fs.makedirs(self._place(name).rpartition("/")[0], exist_ok=True)
        sent = hashlib.sha256()
        with path.open("rb") as file, self._fs.open(self._place(name), "wb") as there:
            for piece in self._pieces(file):
                there.write(piece)
                sent.update(piece)
        kept = hashlib.sha256()
        self._fs.invalidate_cache()
        with self._fs.open(self._place(name), "rb") as there:
            for piece in self._pieces(there):
                kept.update(piece)
        if kept.digest() != sent.digest():
            raise OSError("what came back is not what was sent")

    def _get(self, name: str, path: Path) -> None:
        self._fs.invalidate_cache()  # what it listed of a file that was replaced since would not fit what is there now
        with self._fs.open(self._place(name), "rb") as there:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = path.open("wb")
            except OSError as error:
                raise StorageError(f"could not write {path}: {error}", hint="free space on the disk") from error
            with file:
                for piece in self._pieces(there):
                    file.write(piece)

    def _remove(self, name: str) -> None:
        self._fs.rm_file(self._place(name))
        if isinstance(self._fs, LocalFileSystem):
            with suppress(OSError):  # others are in it
                Path(self._place(name)).parent.rmdir()

    def _text(self, name: str) -> str | None:
        try:
            return bytes(self._fs.cat_file(self._place(name))).decode("utf-8")
        except FileNotFoundError:
            return None

    def _pieces(self, file: Any) -> Iterator[bytes]:
        while piece := file.read(PIECE):
            if self.stop.is_set():
                raise CopyError(f"{self.shown}: it was broken off")
            yield piece

    def _tried(self, name: str, work: Callable[[], Any]) -> Any:
        pause = FIRST_PAUSE
        for attempt in range(1, TRIES + 1):
            try:
                with _told(f"{self.shown}: {name}"):
                    return work()
            except CopyError as error:
                if attempt == TRIES or not error.again or self.stop.wait(pause):
                    raise
                pause *= 2
        raise AssertionError


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Whatever a file system raises inside as a CopyError that says what kind of failure it was."""
    try:
        yield
    except FileNotFoundError as error:
        raise CopyError(f"{what}: there is no such place (FileNotFoundError)", _NO_PLACE) from error
    except PermissionError as error:
        raise CopyError(f"{what}: access is refused (PermissionError)", WHO, again=False) from error
    except OSError as error:
        own = error.errno is None and str(error).startswith("what came back")
        raise CopyError(f"{what}: {error if own else type(error).__name__}") from error
    except library_errors() as error:
        kind = type(error).__name__
        if "Credential" in kind:
            raise CopyError(f"{what}: there are no credentials ({kind})", WHO, again=False) from error
        raise CopyError(f"{what}: {kind}") from error
