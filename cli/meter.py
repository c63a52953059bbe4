"""How far a command is: one line that is written over on a terminal, nothing in a pipe."""

import os
import sys
import time
from typing import final

from wavalign.terminal import presentable

from .console import Format, note, output_format

EVERY = 0.1
"""Seconds between two drawings."""


@final
class Meter:
    """Tells a person what is being done, on standard error."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and output_format.get() is Format.TEXT
        self._drawn, self._terminal, self._last = False, shown and not quiet, 0.0

    def progress(self, what: str, done: int, total: int) -> None:
        """`done` of `total`; 0 of 0 where nobody knows."""
        now = time.monotonic()
        if not self._terminal or (done < total and now - self._last < EVERY):
            return
        self._last = now
        count = f" {done} of {total}" if total else " ..."
        sys.stderr.write(f"\r\x1b[K{presentable(what, keep='')}{count}")
        sys.stderr.flush()
        self._drawn = True

    def message(self, text: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self.clear()
            note(text)

    def clear(self) -> None:
        """Take the line away."""
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False
