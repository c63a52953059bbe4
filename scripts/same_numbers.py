"""Whether a change of structure moved a number: run recipes before and after it, and compare bit for bit.

    python scripts/same_numbers.py record FOLDER            in a clone of the commit before, and in one of that after
    python scripts/same_numbers.py compare BEFORE AFTER     every shared metric of every step, and every weight
    python scripts/same_numbers.py record FOLDER --dense    every row and projection by itself: without what saves time

Only fields that measure time or memory may differ. Fields that one side has alone are named, and are no difference of
numbers; a field that the side before has and the side after has lost is one.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "recipes"
KL = "objective.terms.rl.loss.kl"
FREE = ("_seconds", "_per_second", "_bytes", "mfu")
ARMS = sorted((RECIPES / "arms").glob("*.yaml"))
SMALL = ("evaluation.limit=8",)


def _zero(processes: int, stage: int) -> tuple[str, ...]:
    return (
        f"runtime.engine={{type: deepspeed, zero: {stage}}}",
        f"runtime.processes={processes}",
        "runtime.precision=float32",
    )


RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "quickstart": ("quickstart.yaml", ("steps=10", "evaluation.limit=24")),
    "kimi": ("quickstart-kimi.yaml", ("steps=4", *SMALL)),
    "codec-lm": ("quickstart-codec-lm.yaml", ("steps=4", *SMALL)),
    "listening": ("listening.yaml", ("steps=2", *SMALL)),
    **{f"arm-{path.stem}": (f"arms/{path.name}", ("steps=3", *SMALL)) for path in ARMS},
    "two-ranks": ("vita/tiny.yaml", ("steps=4", "batch.micro_batch=8", "runtime.processes=2", *SMALL)),
    "zero2": ("vita/tiny.yaml", ("steps=4", "batch.micro_batch=8", *_zero(2, 2), *SMALL)),
    "zero3": ("kimi/tiny.yaml", ("steps=3", "batch.micro_batch=8", *_zero(2, 3), *SMALL)),
    "cut": ("vita/tiny.yaml", ("steps=4", "rollout.top_p=0.9", "rollout.top_k=20", "batch.micro_batch=12", *SMALL)),
    "adapter": (
        "vita/tiny.yaml",
        ("steps=3", "model.adapter={type: lora, rank: 4, dropout: 0.1}", f"{KL}.coefficient=0.05", *SMALL),
    ),
    "audio-kl": (
        "arms/full-grpo.yaml",
        ("steps=3", f"{KL}.coefficient={{text: 0.02, audio: 0.05, marks: 0.01}}", *SMALL),
    ),
}  # fmt: skip


DENSE = (
    "batch.share_prompts=false",
    "batch.packing=false",
    "batch.skip_without_signal=false",
    "rollout.sampler={type: kv_cache, fuse_projections: false}",
)


def record(folder: Path, only: list[str], more: tuple[str, ...] = ()) -> None:
    """Run every recipe of `RUNS` (those named in `only`), with `more` settings, into a folder of its own."""
    for name in only or RUNS:
        recipe, settings = RUNS[name]
        settings = (*settings, *more)
        target = folder / name
        if (target / "model").exists():
            continue
        sets = [
            part for each in (*settings, f"runtime.folder={target}", "runtime.trackers=[]") for part in ("--set", each)
        ]
        command = [sys.executable, "-m", "wavalign_cli", "run", str(RECIPES / recipe), *sets, "--format", "text"]
        done = subprocess.run(
            command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, cwd=folder
        )
        print(f"{name}: exit {done.returncode}", flush=True)
        if done.returncode:
            print(done.stdout[-1500:], done.stderr[-1500:], flush=True)


def compare(before: Path, after: Path, only: list[str]) -> bool:
    """Print every difference; True where there is none."""
    equal = True
    for name in only or RUNS:
        one, other = before / name, after / name
        if not (one / "model").exists():
            print(f"{name}: not recorded before")
            continue
        if not (other / "metrics.jsonl").exists():
            print(f"{name}: NOT RECORDED AFTER")
            equal = False
            continue
        found = [*_metrics(one, other), *_weights(one / "model", other / "model")]
        new = ", ".join(sorted(_keys(other) - _keys(one)))
        verdict = "equal" if not found else "DIFFERS"
        print(f"{name}: {verdict}, {len(_lines(one))} lines; new fields: {new or 'none'}")
        for each in found[:6]:
            print(f"   {each}")
        equal = equal and not found
    return equal


def _lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _keys(folder: Path) -> set[str]:
    return {key for line in _lines(folder) for key in line}


def _metrics(one: Path, other: Path) -> list[str]:
    left, right = _lines(one), _lines(other)
    found = [] if len(left) == len(right) else [f"{len(left)} lines of metrics, {len(right)} after"]
    for a, b in zip(left, right, strict=False):
        for key in (key for key in a if key != "time" and not key.endswith(FREE)):
            if a[key] != b.get(key):
                found.append(f"step {a['step']} {a['split']}: {key} {a[key]} -> {b.get(key, 'gone')}")
    return found


def _weights(one: Path, other: Path) -> list[str]:
    found = []
    for path in sorted(one.glob("*.safetensors")):
        a, b = load_file(path), load_file(other / path.name)
        found += [
            f"weight {key}"
            for key in sorted(set(a) | set(b))
            if key not in a or key not in b or not torch.equal(a[key], b[key])
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "compare"))
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--only", action="append", default=[], choices=list(RUNS))
    parser.add_argument("--dense", action="store_true", help="with " + ", ".join(DENSE))
    chosen = parser.parse_args()
    if chosen.what == "record":
        chosen.folders[0].mkdir(parents=True, exist_ok=True)
        record(chosen.folders[0].resolve(), chosen.only, DENSE if chosen.dense else ())
    elif not compare(chosen.folders[0], chosen.folders[1], chosen.only):
        sys.exit(1)


if __name__ == "__main__":
    main()
