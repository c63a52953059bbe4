"""How a process ends in which libraries have threads of their own."""

import atexit
import os
import sys
from typing import NoReturn

_UNWRITTEN = 120
"""Python's own exit code where what was printed cannot be written."""


def leave(code: int) -> NoReturn:
    """End this process once its exit functions have run and its streams are written, without finalising Python.

    While the interpreter is finalised, a thread in native code that asks for it aborts the process. Gloo's threads do,
    to free a collective's tensors, and they run to the process's end where a library keeps the process group.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # full, or closed
            code = code or _UNWRITTEN
    os._exit(code)
