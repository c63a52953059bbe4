"""Start runs as a person does, in processes of their own, and read what they leave."""

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from wavalign_cli.app import main

ROOT = Path(__file__).parents[2]
VARYING = ("time", "mfu")
PRELOADED = (
    "tests.e2e.runs",
    "wavalign.engine.api",
    "wavalign.plugins.architectures.vita",
    "wavalign.plugins.samplers.kv_cache",
    "wavalign_cli.displays",
)
"""What costs seconds to import."""
VARYING_ENDINGS = ("_seconds", "_per_second", "_bytes")


def command(*arguments: str) -> list[str]:
    """The command line `wavalign ARGUMENTS`."""
    return [sys.executable, "-m", "wavalign_cli", *arguments]


def environment(**changes: str) -> dict[str, str]:
    """One thread, no colours, a wide terminal."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "160", **changes}


def wavalign(*arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout, check=False
    )


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended in this process."""

    code: int
    output: str
    """Of both streams."""


def here(*arguments: str) -> Ended:
    """Run in this process, which has imported everything already; signals and kills need one of their own."""
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        code = main(arguments)
    return Ended(code, output.getvalue())


@final
class Started:
    """A command in a process of its own, which can be killed; it comes from a server that has imported everything."""

    def __init__(self, arguments: tuple[str, ...], log: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*PRELOADED])
        self._log = log
        self._process = context.Process(target=_main, args=(arguments, str(log)), daemon=True)
        self._process.start()

    @property
    def code(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.exitcode

    @property
    def output(self) -> str:
        """What it has said so far, on both streams."""
        return self._log.read_text(encoding="utf-8") if self._log.exists() else ""

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self, seconds: float = 120) -> int:
        """Wait for its end; gives the exit code."""
        self._process.join(seconds)
        assert self.code is not None, f"still runs after {seconds} s:\n{self.output}"
        return self.code


def _main(arguments: tuple[str, ...], log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment())
    os.chdir(ROOT)
    code = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSONL file; a line that is still being written is left out."""
    if not path.exists():
        return []
    return [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
    ]


def snapshot(folder: Path) -> dict[Path, bytes]:
    """Every file of a folder with its content."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def comparable(path: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl without what may differ between two runs of one plan."""
    return [
        {key: value for key, value in line.items() if key not in VARYING and not key.endswith(VARYING_ENDINGS)}
        for line in lines(path)
    ]


def wait_for(condition: Callable[[], bool], process: Started, *, seconds: float = 120) -> None:
    """Until `condition` holds; fails when the process ends first or time is up."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.code is None, f"ended with {process.code}:\n{process.output}"
        assert time.monotonic() < end, f"took too long:\n{process.output}"
        time.sleep(0.005)
