"""Single codes or whole answers: recipes/feedback/ over seeds, from the same start, on the same held-out sentences.

    python benchmarks/feedback.py [--seeds 0 1 2] [--arms NAME ...] [--folder runs/feedback] [--table] [--out MD]

Runs what `--folder` does not hold yet, one after another, each in a process of its own on one thread. Prints and, with
`--out`, writes how often a recogniser hears the right last word, and how long answers are beside the clear reading,
after so many steps: every run, and the mean of each arm over its seeds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

ROOT = Path(__file__).resolve().parent.parent
SHOWN = {"heard_answer": "heard right", "duration_ratio": "length"}
STEP, SPLIT = "step", "heldout"


@final
@dataclass(frozen=True, slots=True)
class Arm:
    """A recipe, and what is changed in it."""

    recipe: str
    says: str
    overrides: tuple[str, ...] = ()


ARMS = {
    "answer-level": Arm("answer-level", "one advantage an answer (group_normalized)"),
    "token-level": Arm("token-level", "return_to_go, gamma 1, against the group at the same step"),
    "token-level-near": Arm(
        "token-level", "the same, gamma 0.8: some five codes ahead", ("objective.advantage.gamma=0.8",)
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--folder", type=Path, default=Path("runs/feedback"))
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    for arm in () if given.table else given.arms:
        for seed in given.seeds:
            train(arm, seed, given.folder)
    text = table({arm: {seed: curve(given.folder / f"{arm}-{seed}") for seed in given.seeds} for arm in given.arms})
    print(text)
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")


def train(arm: str, seed: int, folder: Path) -> None:
    """One run, unless its folder says that it is done."""
    place = folder / f"{arm}-{seed}"
    if (place / "model").exists():
        return
    changes = (f"seed={seed}", f"runtime.folder={place}", *ARMS[arm].overrides)
    command = [sys.executable, "-m", "wavalign_cli", "run", str(ROOT / "recipes/feedback" / f"{ARMS[arm].recipe}.yaml")]
    command += [part for change in changes for part in ("--set", change)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)


def curve(folder: Path) -> dict[int, Mapping[str, float]]:
    """Held-out values by step."""
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return {line[STEP]: line for line in lines if line["split"] == SPLIT}


def table(found: Mapping[str, Mapping[int, Mapping[int, Mapping[str, float]]]]) -> str:
    """The page in Markdown."""
    steps = sorted({step for runs in found.values() for each in runs.values() for step in each})
    head = ["arm", "seed", "", *(f"step {step}" if step else "start" for step in steps)]
    rows = [head, ["---"] * len(head)]
    for arm, runs in found.items():
        for name, said in SHOWN.items():
            for seed, values in runs.items():
                rows.append([arm, str(seed), said, *(f"{values[step][name]:.3f}" for step in steps)])
            means = [statistics.mean(values[step][name] for values in runs.values()) for step in steps]
            rows.append([f"**{arm}**", "mean", said, *(f"**{mean:.3f}**" for mean in means)])
    first = next(iter(next(iter(found.values())).values()))[steps[0]]
    gold = ", ".join(f"{said} {first[f'{name}/ceiling']:.3f}" for name, said in SHOWN.items())
    arms = [f"- `{name}`: {ARMS[name].says}" for name in found]
    lines = [*arms, "", *("| " + " | ".join(row) + " |" for row in rows), "", f"Gold codes: {gold}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
