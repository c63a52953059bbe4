"""Standard streams that can be written to, whatever a shell or a service started the command with; and its signals."""

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wavalign.errors import StorageError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def usable_streams() -> None:
    """Put the null device where a stream is closed (`>&-`), and let none fail over a letter its encoding lacks."""
    for name in ("stdin", "stdout", "stderr"):  # in the order of their descriptors: the lowest free one is taken
        stream = vars(sys)[name]
        if stream is None:
            mode = "r" if name == "stdin" else "w"
            vars(sys)[name] = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115 - it stays open
        elif isinstance(stream, io.TextIOWrapper) and name != "stdin":
            stream.reconfigure(errors="backslashreplace")


def as_full(error: OSError) -> StorageError | None:
    """What to say where there is no room for what is written; None for any other error."""
    if error.errno not in _FULL:
        return None
    place = f"{error.filename}: " if error.filename else ""
    hint = "is there space where the run's folder, the temporary folder and standard output lie?"
    return StorageError(f"{place}cannot be written: {os.strerror(error.errno)}", hint=hint)


@contextmanager
def watched_interrupts() -> Iterator[Callable[[], bool]]:
    """Inside, the function given says whether Ctrl-C came, even where a library took the exception for one of its own.

    Modules written in C do, while they are imported. Nobody's handler is touched.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def came() -> bool:
        try:
            return signal.SIGINT in os.read(reading, 1 << 12)
        except BlockingIOError:
            return False

    try:
        yield came
    finally:
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)
