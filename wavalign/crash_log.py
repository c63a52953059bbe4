"""Tracebacks on the disk, a file of its own for each.

Nobody can know its name beforehand, no link leads it elsewhere, and its owner alone reads it.
"""

import os
import secrets
import tempfile
import time
import traceback
from contextvars import ContextVar
from pathlib import Path

from wavalign import __version__
from wavalign.terminal import presentable

run_folder: ContextVar[Path | None] = ContextVar("run_folder", default=None)
"""Of the run this process is in; set when its folder is known."""


def keep_traceback(error: BaseException) -> Path | None:
    """Write the traceback of `error`, secrets hidden, into the run's folder or else the system's temporary one.

    Gives the file, None where neither can be written.
    """
    text = presentable(f"wavalign {__version__}\n{''.join(traceback.format_exception(error))}")
    for folder in (run_folder.get(), Path(tempfile.gettempdir())):
        try:
            if folder is not None and folder.is_dir():
                return _written(folder, text)
        except OSError:
            continue  # full, read-only or gone: the next place
    return None


def _written(folder: Path, text: str) -> Path:
    """A new file with an unguessable name, never through a link, readable by its owner alone."""
    path = folder / f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(8)}.log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    return path
