"""Rows about whole runs: killed and resumed, steps under ZeRO, and the estimate of memory against its peak."""

import atexit
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.cuda.rows import Row, Setting

ROOT = Path(__file__).resolve().parent.parent.parent
RECIPE = "recipes/vita/tiny.yaml"
STEPS = 6
TIMED = ("_seconds", "_per_second", "_bytes", "time", "mfu")
MEASURED = ("sft", "hybrid", "adapter", "checkpointing", "vocabulary", "bf16")
"""Points of `benchmarks/memory.py`."""
TOLERANCE = 1e-4
"""Sums whose order a GPU does not keep may differ by so much of their value; on a CPU nothing may."""


def resume(setting: Setting) -> Iterator[Row]:
    """A run that is killed behind its second checkpoint and resumed, against one that was left alone."""
    with tempfile.TemporaryDirectory(prefix="gpu-resume-") as scratch:
        whole, cut = Path(scratch) / "whole", Path(scratch) / "cut"
        _finish(setting, whole)
        process = _start(setting, cut)
        while process.poll() is None and not (cut / "checkpoints" / "step-4").exists():
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _finish(setting, cut, "--resume")
        apart, fields = _apart(_metrics(whole), _metrics(cut))
    value = f"{fields} numbers of {STEPS} steps, largest relative difference {apart:.1e}"
    bound = TOLERANCE if setting.device.type == "cuda" else 0.0
    yield Row("killed with -9, resumed", value, f"<= {bound:g}", apart <= bound)


def steps(setting: Setting) -> Iterator[Row]:
    """Seconds of single steps' sampling and learning, plain and under ZeRO-2 in bf16."""
    count = 4 if setting.small else 25
    kinds = {"plain": (), "ZeRO-2, bf16": ("runtime.engine={type: deepspeed, zero: 2}", "runtime.precision=bf16")}
    for name, settings in kinds.items():
        with tempfile.TemporaryDirectory(prefix="gpu-steps-") as scratch:
            folder = Path(scratch) / "run"
            _finish(setting, folder, *(each for value in (*settings, f"steps={count}") for each in ("--set", value)))
            lines = _metrics(folder)[count // 4 :]
        sampling, learning = ([line[key] for line in lines] for key in ("rollout_seconds", "learn_seconds"))
        median, worst = statistics.median(sampling), max(sampling)
        value = f"sampling {median:.3f} s, longest {worst:.3f}; learning {statistics.median(learning):.3f}"
        yield Row(f"steps, {name}", value, "longest < 3 medians", worst < 3 * median)


def memory(setting: Setting) -> Iterator[Row]:
    """The plan's estimate against the measured peak, as `benchmarks/memory.py` finds them."""
    names = MEASURED[:1] if setting.small else MEASURED
    command = [sys.executable, "benchmarks/memory.py", "--device", setting.device.type, "--only", *names]
    process = subprocess.Popen(
        command, cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    found = 0
    for line in process.stdout or ():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells[0] not in names or len(cells) < 5:
            continue
        found += 1
        value = f"said {cells[2]}, measured {cells[3]} MiB: {cells[4]}"
        yield Row(f"memory, {cells[0]}", value, "within 15 %", abs(float(cells[4]) - 1) <= 0.15)
    if process.wait() not in (0, 1) or not found:
        yield Row("memory", f"ended with {process.returncode}, {found} rows", holds=False)


@cache
def _package() -> str:
    """A folder in which the command line has its package's name, as where wavalign is installed."""
    folder = tempfile.mkdtemp(prefix="gpu-cli-")
    (Path(folder) / "wavalign_cli").symlink_to(ROOT / "cli")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _environment() -> Mapping[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), _package(), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def _start(setting: Setting, folder: Path, *more: str) -> "subprocess.Popen[str]":
    """The recipe in a process of its own, whose children are in its group."""
    settings = (
        f"runtime.device={setting.device.type}", f"runtime.folder={folder}", "runtime.report=false", f"steps={STEPS}",
        "runtime.checkpoint_every=2", "runtime.log_rollouts_every=0", "evaluation=!replace {}", "batch.prompts=8",
        "batch.demonstrations=8",
    )  # fmt: skip
    command = [sys.executable, "-m", "wavalign_cli", "run", RECIPE, "--quiet"]
    command += [part for each in settings for part in ("--set", each)] + list(more)
    return subprocess.Popen(
        command, cwd=ROOT, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def _finish(setting: Setting, folder: Path, *more: str) -> None:
    """Run it to its end; RuntimeError with what it said where it fails."""
    process = _start(setting, folder, *more)
    said = process.communicate()[1]
    if process.returncode:
        raise RuntimeError(f"exit {process.returncode}: {(said.strip().splitlines() or ['nothing said'])[-1]}")


def _metrics(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if line.get("split") == "train"]


def _apart(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> tuple[float, int]:
    """The largest relative difference of what does not measure time, and how many numbers were compared."""
    if len(left) != len(right):
        raise RuntimeError(f"{len(left)} lines against {len(right)}")
    worst, count = 0.0, 0
    for one, other in zip(left, right, strict=True):
        for name, value in one.items():
            if isinstance(value, float | int) and not name.endswith(TIMED):
                worst = max(worst, abs(value - other[name]) / max(1e-6, abs(value)))
                count += 1
    return worst, count
