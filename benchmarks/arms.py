"""The arms of recipes/arms/ side by side: the same start, prompts and steps, different objectives, several seeds.

    python benchmarks/arms.py [--arms NAME ...] [--seeds 0 1 2] [--at-once 2] [--folder runs/arms] [--table]

Runs what `--folder` does not hold yet (every run in a process of its own) and prints each run and, per arm, the mean
over seeds with the lowest and the highest. Intervals of one run are those of its items (95 %); one base model, one test
set.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ARMS = ("sft-only", "text-grpo", "full-grpo", "hybrid-fixed", "hybrid-adaptive")
SHOWN = {
    "text_accuracy": "text right",
    "heard_answer": "heard right",
    "style_accuracy": "style",
    "well_formed": "whole",
}


def main() -> None:
    """Run, then print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--at-once", type=int, default=2, help="runs side by side, one thread each")
    parser.add_argument("--folder", type=Path, default=Path("runs/arms"))
    parser.add_argument("--table", action="store_true", help="only print what is there")
    options = parser.parse_args()
    wanted = [(arm, seed) for seed in options.seeds for arm in options.arms]
    if not options.table:
        with ThreadPoolExecutor(options.at_once) as pool:
            list(pool.map(lambda each: run(*each, options.folder), wanted))
    done = {each: measured(options.folder / f"{each[0]}-{each[1]}") for each in wanted}
    for line in table({each: found for each, found in done.items() if found}):
        print(line)


def run(arm: str, seed: int, folder: Path) -> None:
    """One run, unless it is complete already."""
    target = folder / f"{arm}-{seed}"
    if (target / "finished.json").exists():
        return
    command = [sys.executable, "-m", "wavalign_cli", "run", f"recipes/arms/{arm}.yaml", "--quiet"]
    command += ["--set", f"seed={seed}", "--set", f"runtime.folder={target.resolve()}"]
    command += ["--resume"] if (target / "plan.json").exists() else []
    subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)


def measured(folder: Path) -> dict[str, Any]:
    """First and last line of the held-out split, and the seconds of the steps; nothing for an unfinished run."""
    if not (folder / "finished.json").exists():
        return {}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    heldout = [line for line in lines if line["split"] == "heldout"]
    steps = [line for line in lines if line["split"] == "train"]
    return {
        "start": heldout[0],
        "end": heldout[-1],
        "seconds": sum(line["step_seconds"] for line in steps),
        "gate": steps[-1].get("gate"),
    }


def table(done: dict[tuple[str, int], dict[str, Any]]) -> Iterator[str]:
    """Lines of Markdown."""
    yield f"| arm | seed | {' | '.join(SHOWN.values())} | gate at the end | seconds of steps |"
    yield f"|---|---|{'---|' * (len(SHOWN) + 2)}"
    if done:
        start = next(iter(done.values()))["start"]
        yield f"| *start* | | {' | '.join(_interval(start, name) for name in SHOWN)} | | |"
        yield f"| *gold tokens* | | {' | '.join(format(start[f'{name}/ceiling'], '.3f') for name in SHOWN)} | | |"
    for (arm, seed), found in sorted(done.items()):
        cells = " | ".join(_interval(found["end"], name) for name in SHOWN)
        yield f"| {arm} | {seed} | {cells} | {_number(found['gate'])} | {found['seconds']:.0f} |"
    for arm in dict.fromkeys(arm for arm, _ in sorted(done)):
        runs = [found for (each, _), found in done.items() if each == arm]
        cells = " | ".join(_spread([found["end"][name] for found in runs]) for name in SHOWN)
        yield f"| **{arm}** | {len(runs)} seeds | {cells} | | |"


def _interval(line: dict[str, Any], name: str) -> str:
    return f"{line[name]:.3f} ({line[f'{name}/low']:.2f}-{line[f'{name}/high']:.2f})"


def _spread(values: Sequence[float]) -> str:
    return f"**{statistics.mean(values):.3f}** ({min(values):.3f} to {max(values):.3f})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()
