"""How a process ends that has gloo's threads."""

import atexit
import os
import signal
import sys
import threading
from typing import NoReturn, final

_UNWRITTEN = 120
"""Python's own exit code where what was printed cannot be written."""


@final
class NativeThreads:
    """Whether this process has, or had, threads that finalising Python would abort it for."""

    started = False


def leave(code: int) -> NoReturn:
    """End this process as Python would, but for finalising Python: threads and exit functions end, streams are written.

    While the interpreter is finalised, a thread in native code that asks for it aborts the process (exit code 134).
    Gloo's threads do, to free a collective's tensors, and they run on after `destroy_process_group`.
    """
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # waits for those that are no daemons, as Python's end does
    except KeyboardInterrupt:
        code = code or 128 + signal.SIGINT
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # full, or closed
            code = code or _UNWRITTEN
    os._exit(code)
