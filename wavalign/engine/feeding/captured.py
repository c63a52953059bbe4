"""Standard error of libraries written in C, captured instead of shown."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

ERRORS = 2
"""The descriptor of standard error."""
MOST = 10_000
"""Bytes that are kept."""


@contextmanager
def captured_errors() -> Iterator[list[str]]:
    """Inside, what is written to descriptor 2 becomes lines of the list, there on leaving.

    The descriptor belongs to the whole process: only for commands of one thread, with nothing drawn meanwhile.
    """
    lines: list[str] = []
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        kept = os.dup(ERRORS)
        try:
            os.dup2(file.fileno(), ERRORS)
            yield lines
        finally:
            sys.stderr.flush()
            os.dup2(kept, ERRORS)
            os.close(kept)
            file.seek(0)
            lines += file.read(MOST).decode(errors="replace").splitlines()
