"""A lock of the first rank's own, where it runs on another machine than the launcher whose lock it cannot inherit.

The launcher may be gone while that rank still writes its checkpoint: the folder is not free before both are.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wavalign.engine.state.files import storage_errors
from wavalign.errors import FolderBusyError

NAME = "rank.lock"


@contextmanager
def locked_as_rank(folder: Path) -> Iterator[None]:
    """Hold it inside; raises FolderBusyError where another rank does."""
    with storage_errors(str(folder / NAME)):
        descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def check_rank_free(folder: Path) -> None:
    """Raise FolderBusyError where a rank holds it."""
    if not (folder / NAME).exists():
        return
    with (folder / NAME).open("rb") as file:
        _take(file.fileno(), folder)


def _take(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FolderBusyError(
            f"{folder} is still written to by the first process of a run whose launcher is gone",
            hint="it ends once its step and checkpoint are done; then try again",
        ) from None
