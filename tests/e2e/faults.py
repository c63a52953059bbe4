"""Runs in processes of their own that are killed, or meet a full disk, at a chosen file-system event."""

import errno
import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tests.e2e.runs import PRELOADED, ROOT, environment
from wavalign_cli.app import main

KILLED = 137
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "shutil.copyfile")
Fault = Literal["count", "kill", "full"]


def run(arguments: Sequence[str], folder: Path, *, fault: Fault = "count", at: int = 0) -> tuple[int, int, str]:
    """`wavalign ARGUMENTS`; gives exit code, events met in `folder`, and what was said.

    Before the `at`-th event that writes in `folder` the process is gone (`kill`), or the disk is full (`full`).
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, "wavalign.engine.report.page", "tests.e2e.faults"])
    log, count = folder.with_name("said.txt"), context.Value("i", 0)
    log.unlink(missing_ok=True)
    process = context.Process(
        target=_child, args=(tuple(arguments), str(folder), str(log), fault, at, count), daemon=True
    )
    process.start()
    process.join(120)
    assert process.exitcode is not None, f"still runs after 120 s: {fault} at {at}\n{log.read_text()}"
    return process.exitcode, count.value, log.read_text()


def _child(arguments: tuple[str, ...], folder: str, log: str, fault: Fault, at: int, count: Any) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment())
    os.chdir(ROOT)

    def watch(event: str, details: tuple[Any, ...]) -> None:
        if event not in EVENTS or not _is_inside(event, details, folder):
            return
        count.value += 1
        if fault == "kill" and count.value == at:
            os._exit(KILLED)
        if fault == "full" and count.value >= at and event not in ("os.remove", "os.rmdir", "os.truncate"):
            raise OSError(errno.ENOSPC, "No space left on device")

    sys.addaudithook(watch)
    code = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _is_inside(event: str, details: tuple[Any, ...], folder: str) -> bool:
    """Whether an event changes something in the folder."""
    if event == "open":
        flags = details[2] if len(details) > 2 and isinstance(details[2], int) else 0
        if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return False
    if event == "os.truncate":
        return True
    return any(isinstance(each, str | os.PathLike) and str(each).startswith(folder) for each in details)
