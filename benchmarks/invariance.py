"""What a step is cut into, and where it runs, changes nothing that is learned: one recipe in many ways, side by side.

    python benchmarks/invariance.py [--steps N] [--only NAME ...] [--json FILE]

Each way takes the quickstart's first steps, from the same weights, on one process or on two. Rows say by how much the
loss (over all steps, relative) and the weights after the last (absolute) differ from the first way of their block.
Answers are sampled with the same draws; where rounding turns one of them into another token, the loss shows it.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from wavalign.engine.compile.compiler import compile_recipe
from wavalign.engine.compile.plan import Cluster, Plan
from wavalign.engine.run.builder import Builder
from wavalign.engine.state.distributed import World
from wavalign.engine.step.stage import LiveStage
from wavalign.engine.step.step import StepExecutor
from wavalign.schema.loading import load_recipe

RECIPE = ROOT / "recipes" / "quickstart.yaml"
SMALL = (
    "evaluation.metrics={}", "data.evaluation={}", "steps=80", "runtime.device=cpu", "runtime.threads=1",
    "runtime.trackers=[]", "rollout.group_size=4", "rollout.max_new_tokens=24", "batch.prompts=4",
    "batch.demonstrations=4", "optim.epsilon=1.0e-4",
)  # fmt: skip
"""Two updates a step and a reference where rows say so; Adam's epsilon is one below which no gradient that is rounding
alone makes a whole step."""


@final
@dataclass(frozen=True, slots=True)
class Way:
    """A way to run the recipe."""

    name: str
    processes: int = 1
    settings: tuple[str, ...] = ()

    def plan(self, block: Sequence[str]) -> Plan:
        """For this machine."""
        asked = (*SMALL, *block, *self.settings, f"runtime.processes={self.processes}")
        return compile_recipe(load_recipe(str(RECIPE), asked), Cluster(cores=2, host_bytes=8 << 30))


def _zero(stage: int) -> tuple[str, ...]:
    return (f"runtime.engine={{type: deepspeed, zero: {stage}}}",)


EPOCHS = ("batch.epochs=2", "batch.mini_batches=2")
HALF = ("runtime.precision=bf16",)
ON_TWO = tuple(Way(f"ZeRO {stage}, 2 processes", 2, _zero(stage)) for stage in range(4))
BLOCKS: Mapping[str, tuple[tuple[str, ...], tuple[Way, ...]]] = {
    "float32": (
        (),
        (
            Way("plain, one micro-batch"),
            Way("micro-batches of 8 rows", settings=("batch.micro_batch=8",)),
            Way("micro-batches of 3 rows", settings=("batch.micro_batch=3",)),
            Way("micro-batches of 256 tokens", settings=("batch.micro_batch_tokens=256",)),
            Way("every row by itself, padded", settings=("batch.packing=false", "batch.share_prompts=false")),
            Way("plain, 2 processes", 2),
            Way("2 processes, micro-batches of 3 rows", 2, ("batch.micro_batch=3",)),
            *(Way(f"ZeRO {stage}, 1 process", 1, _zero(stage)) for stage in range(4)),
            *ON_TWO,
        ),
    ),
    "float32, 2 epochs of 2 mini-batches": (
        EPOCHS,
        (
            Way("plain, one micro-batch an update"),
            Way("micro-batches of 3 rows", settings=("batch.micro_batch=3",)),
            Way("plain, 2 processes", 2),
            Way("ZeRO 3, 2 processes", 2, _zero(3)),
        ),
    ),
    "bf16 (weights and gradients are rounded)": (
        HALF,
        (Way("ZeRO 2, 1 process", 1, _zero(2)), *ON_TWO[1:]),
    ),
}
"""By name: what all its ways have, and the ways, the first of which the others are compared with."""


@final
@dataclass(frozen=True, slots=True)
class Done:
    """What a way came to."""

    losses: list[float]
    weights: Mapping[str, Tensor]
    moved: float
    """The furthest that a weight went."""
    seconds: float


def run(plan: Plan, world: World, steps: int) -> Done:
    """The first steps of a plan on this rank of `world`."""
    began = time.perf_counter()
    live = Builder(plan, world, lambda _what, _done, _total: None).stage(plan.stages[0], None)
    executor = StepExecutor(live)
    try:
        start = _weights(live)
        losses = [executor.step(index).metrics["loss"] for index in range(steps)]
        weights = _weights(live)
    finally:
        live.close()
    moved = max(float((weights[name] - each).abs().max()) for name, each in start.items())
    return Done(losses, weights, moved, time.perf_counter() - began)


def _weights(live: LiveStage) -> dict[str, Tensor]:
    with live.backend.full_parameters():
        return {name: each.detach().float().clone() for name, each in live.backend.policy.named_parameters()}


def asked_of(only: Sequence[str]) -> Iterator[tuple[str, int, Way]]:
    """Block, place in it and way, of all blocks or those named."""
    for block, (_, ways) in BLOCKS.items():
        if not only or any(block.startswith(each) for each in only):
            yield from ((block, number, way) for number, way in enumerate(ways))


def rank(folder: Path, steps: int, only: Sequence[str]) -> None:
    """One rank of all ways on two processes, which leaves what the first found in `folder`."""
    torch.set_num_threads(1)
    world = World.from_environment("cpu")
    for block, number, way in asked_of(only):
        if way.processes > 1:
            done = run(way.plan(BLOCKS[block][0]), world, steps)
            if world.is_first:
                _keep(folder / f"{list(BLOCKS).index(block)}-{number}", done)
            world.barrier()
    world.close()


def _keep(path: Path, done: Done) -> None:
    save_file(dict(done.weights), f"{path}.safetensors")
    about = json.dumps({"losses": done.losses, "moved": done.moved, "seconds": done.seconds})
    path.with_suffix(".part").write_text(about, encoding="utf-8")
    path.with_suffix(".part").rename(path.with_suffix(".json"))


def _kept(path: Path) -> Done:
    about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return Done(weights=load_file(f"{path}.safetensors"), **about)


def start_ranks(folder: Path, steps: int, only: Sequence[str]) -> list["subprocess.Popen[bytes]"]:
    """Two processes that take the ways on two processes, one after the other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, str(Path(__file__).resolve()), "--rank", str(folder), "--steps", str(steps)]
    command += ["--only", *only] if only else []
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(command, env={**os.environ, **place, "RANK": str(each), "LOCAL_RANK": str(each)})
        for each in range(2)
    ]


def measured(steps: int, only: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """A row for every way, in order."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        folder, firsts = Path(made), dict[str, Done]()
        ranks = start_ranks(folder, steps, only)
        try:
            for block, number, way in asked_of(only):
                path = folder / f"{list(BLOCKS).index(block)}-{number}"
                if way.processes == 1:
                    done = run(way.plan(BLOCKS[block][0]), World.single("cpu"), steps)
                else:
                    _wait_for(path.with_suffix(".json"), ranks)
                    done = _kept(path)
                yield _row(block, way, done, firsts.setdefault(block, done))
            if any(each.wait() for each in ranks):
                raise SystemExit("a process of the ways on two processes failed; its words stand above")
        finally:
            for each in ranks:
                each.kill()
                each.wait()


def _wait_for(path: Path, ranks: Sequence["subprocess.Popen[bytes]"]) -> None:
    while not path.exists():
        if any(each.poll() for each in ranks):
            raise SystemExit("a process of the ways on two processes failed; its words stand above")
        time.sleep(0.05)


def _row(block: str, way: Way, done: Done, first: Done) -> dict[str, Any]:
    loss = max(abs(a - b) / abs(b) for a, b in zip(done.losses, first.losses, strict=True))
    weights = max(float((done.weights[name] - each).abs().max()) for name, each in first.weights.items())
    return {"block": block, "way": way.name, "losses": done.losses, "loss": loss, "weights": weights,
            "moved": done.moved, "seconds": done.seconds}  # fmt: skip


def line(row: Mapping[str, Any], *, is_first: bool) -> str:
    """A row of the table."""
    last = f"{row['losses'][-1]:.6f}"
    apart = ("", f"moved by {row['moved']:.1e}") if is_first else (f"{row['loss']:.1e}", f"{row['weights']:.1e}")
    return f"| {row['way']} | {last} | {apart[0]} | {apart[1]} |"


def main() -> None:
    """Print rows as they come."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[], metavar="BLOCK", help="blocks that begin so")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.rank is not None:
        rank(asked.rank, asked.steps, asked.only)
        return
    rows: list[dict[str, Any]] = []
    for row in measured(asked.steps, asked.only):
        is_first = not rows or rows[-1]["block"] != row["block"]
        if is_first:
            print(f"\n| {row['block']} | loss of step {asked.steps} | loss differs by | weights differ by |")
            print("|---|---:|---:|---:|")
        print(line(row, is_first=is_first), flush=True)
        rows.append(row)
    if asked.json is not None:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
