"""Start runs as a person does, in processes of their own, and read what they leave."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavalign_cli.app import main

ROOT = Path(__file__).parents[2]
VARYING = ("time",)
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


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start and give the process, its output piped."""
    return subprocess.Popen(
        command(*arguments), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


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


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], *, seconds: float = 120) -> None:
    """Until `condition` holds; fails when the process ends first or time is up."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, (
            f"ended with {process.returncode}:\n{process.stdout.read() if process.stdout else ''}"
        )
        assert time.monotonic() < end, "took too long"
        time.sleep(0.005)
