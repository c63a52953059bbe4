"""What comparisons of recipes share: a run in a process of its own, and cells of their tables."""

import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wavalign.engine.report.paired import PairedDifference, said_p

ROOT = Path(__file__).resolve().parent.parent


def run_recipe(what: str, arguments: Sequence[str], target: Path) -> str:
    """Run a recipe in the folder `target` on one thread, unless it is complete; says what went wrong, else nothing."""
    if (target / "finished.json").exists():
        return ""
    command = [sys.executable, "-m", "wavalign_cli", "run", *arguments, "--quiet"]
    command += ["--set", f"runtime.folder={target.resolve()}", "--set", "runtime.report=false"]
    command += ["--resume"] if (target / "plan.json").exists() else []
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    print(f"{what}: {'done' if done.returncode == 0 else 'failed'}", file=sys.stderr, flush=True)
    return f"{what}: {done.stderr.strip() or done.stdout.strip()}" if done.returncode else ""


def difference(found: PairedDifference | None, corrected: Mapping[int, float]) -> str:
    """A paired difference with its interval and its corrected p, by `id`; bold where it is shown."""
    if found is None:
        return ""
    p = corrected[id(found)]
    text = f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}], p {said_p(p)}"
    return f"**{text}**" if found.shown(p=p) else text


def interval(line: Mapping[str, Any], name: str) -> str:
    """A measured value with its interval."""
    return f"{line[name]:.3f} ({line[f'{name}/low']:.2f}-{line[f'{name}/high']:.2f})"


def spread(values: Sequence[float]) -> str:
    """Mean, lowest and highest."""
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
