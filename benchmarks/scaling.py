"""ZeRO 0 to 3 on one process and two beside PyTorch alone, checkpoints against size, and the engine beside a bare loop.

    python benchmarks/scaling.py [--parts zero overhead checkpoints] [--steps N] [--cuda]

*zero*: the quickstart's step with every engine: seconds (median), the most resident memory of a process (on a GPU:
allocated), bytes that a step hands to the collectives on each process. *checkpoints*: seconds to write and to restore
one, by weights. *overhead*: a step of the engine under ZeRO beside a bare DeepSpeed loop over the same rows with the
same network, the two taking turns, so that what else the machine does meets both. `--cuda` takes GPUs for *zero*
(two processes where there are two); it begins no part after 200 seconds.
"""

import argparse
import gc
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, final

import torch
import torch.distributed as dist
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import overhead
from benchmarks.grpo.point import SIZES, Point
from benchmarks.grpo.world import write_world
from wavalign.engine import api
from wavalign.engine.compile.compiler import compile_recipe
from wavalign.engine.compile.plan import Cluster
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.checkpointing import RunCheckpoints
from wavalign.engine.run.observers import Display, RunInfo
from wavalign.engine.state.distributed import World
from wavalign.engine.state.peaks import forget_highest, highest
from wavalign.engine.step.step import StepExecutor
from wavalign.errors import Interrupted
from wavalign.schema.loading import load_recipe

ENGINES = {"plain": "{type: plain}", **{f"ZeRO {n}": f"{{type: deepspeed, zero: {n}}}" for n in range(4)}}
SMALL = (
    "evaluation.metrics={}", "data.evaluation={}", "steps=80", "runtime.threads=1", "runtime.trackers=[]",
    "batch.prompts=8", "batch.demonstrations=8", "rollout.max_new_tokens=24", "batch.skip_without_signal=false",
)  # fmt: skip
SENT = ("all_reduce", "all_gather_into_tensor", "reduce_scatter_tensor")
CHECKPOINTED = ("T", "S", "L")
CUDA_SECONDS = 200.0
Device = Literal["cpu", "cuda"]


def count_sent(found: Counter[str]) -> None:
    """From here on count the bytes of the whole tensor that each call of a collective is about."""
    for name in SENT:
        own = getattr(dist, name)

        def call(*given: Any, _own: Any = own, _name: str = name, **named: Any) -> Any:
            tensors = [each for each in (*given, *named.values()) if isinstance(each, torch.Tensor)]
            whole = max(tensors, key=torch.Tensor.numel)  # of input and output the one that has all parts
            found[_name] += whole.numel() * whole.element_size()
            return _own(*given, **named)

        setattr(dist, name, call)


def rank(folder: Path, steps: int, device: Device) -> None:
    """One rank of every engine, one after the other; the first leaves what it found."""
    torch.set_num_threads(1)
    world, found = World.from_environment(device), Counter[str]()
    count_sent(found)
    for name, engine in ENGINES.items():
        settings = (*SMALL, f"runtime.device={device}", f"runtime.engine={engine}", f"runtime.processes={world.size}")
        recipe = load_recipe(str(ROOT / "recipes" / "quickstart.yaml"), settings)
        cluster = Cluster(gpus=torch.cuda.device_count(), gpu_bytes=80 << 30, cores=2, host_bytes=8 << 30)
        plan = compile_recipe(recipe, cluster)
        gc.collect()
        forget_highest(world.device)
        live = Builder(plan, world, lambda _what, _done, _total: None).stage(plan.stages[0], None)
        executor = StepExecutor(live)
        executor.step(0)
        found.clear()
        lines = [executor.step(index).metrics for index in range(1, steps + 1)]
        peaks = world.gather(highest(world.device) / 2**20)
        row = {
            "engine": name, "ranks": world.size, "mib": max(peaks), "sent": sum(found.values()) / steps,
            **{key: statistics.median(line[key] for line in lines) for key in ("step_seconds", "learn_seconds")},
        }  # fmt: skip
        live.close()
        if world.is_first:
            with (folder / "rows.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        world.barrier()
    world.close()


def on_ranks(size: int, steps: int, device: Device) -> Iterator[dict[str, Any]]:
    """Rows of every engine on `size` processes, as they come."""
    with tempfile.TemporaryDirectory() as made, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
        probe.close()
        command = [sys.executable, str(Path(__file__).resolve()), "--rank", made, "--steps", str(steps)]
        command += ["--cuda"] * (device == "cuda")
        environment = {**os.environ, **place, "OMP_NUM_THREADS": "1"}
        ranks = [
            subprocess.Popen(command, env={**environment, "RANK": str(each), "LOCAL_RANK": str(each)})
            for each in range(size)
        ]
        try:
            yield from _rows(Path(made) / "rows.jsonl", ranks)
        finally:
            for each in ranks:
                each.kill()
                each.wait()


def _rows(path: Path, ranks: Sequence["subprocess.Popen[bytes]"]) -> Iterator[dict[str, Any]]:
    shown = 0
    while shown < len(ENGINES):
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        yield from (json.loads(line) for line in lines[shown:])
        shown = len(lines)
        if shown < len(ENGINES) and any(each.poll() for each in ranks):
            raise SystemExit("a process failed; its words stand above")
        time.sleep(0.1)


def zero(steps: int, device: Device) -> Iterator[str]:
    """The table of engines."""
    yield "| processes | engine | step s | of it learning s | beside plain | peak MiB a process | sent MB a step |"
    yield "|---:|---|---:|---:|---:|---:|---:|"
    for size in (1, 2) if device == "cpu" or torch.cuda.device_count() > 1 else (1,):
        plain = 0.0
        for row in on_ranks(size, steps, device):
            plain = plain or row["learn_seconds"]
            yield (
                f"| {size} | {row['engine']} | {row['step_seconds']:.2f} | {row['learn_seconds']:.2f} "
                f"| {row['learn_seconds'] / plain:.2f} | {row['mib']:,.0f} | {row['sent'] / 1e6:.2f} |"
            )


def timed(owner: type, name: str, found: list[float]) -> Callable[[], None]:
    """Time every call of a method from here on; gives what ends that."""
    own = getattr(owner, name)

    def call(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return own(*given, **named)
        finally:
            found.append(time.perf_counter() - began)

    setattr(owner, name, call)
    return lambda: setattr(owner, name, own)


def checkpoints(steps: int, _: Device) -> Iterator[str]:
    """Seconds of a checkpoint and of its restoring, by size."""
    yield "| network | weights M | checkpoint MB | written s | MB/s | restored s |"
    yield "|---|---:|---:|---:|---:|---:|"
    for size in CHECKPOINTED:
        with tempfile.TemporaryDirectory() as made:
            yield _checkpointed(size, Path(made), steps)


def _checkpointed(size: str, folder: Path, steps: int) -> str:
    point = Point(size, 2048, 0.5, beta=0.0, warm_up=0, steps=steps, prompts=2)
    write_world(point, folder / "world")
    overhead.write_demonstrations(point, folder / "world")
    recipe = overhead.recipe(point, folder / "world", folder / "run")
    recipe["runtime"] |= {"checkpoint_every": 1, "keep_checkpoints": 1}
    (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    plan = compile_recipe(load_recipe(str(folder / "recipe.yaml")), api.detect_cluster())
    saved, restored = list[float](), list[float]()
    ends = [timed(RunCheckpoints, "save", saved), timed(RunCheckpoints, "restore", restored)]
    try:
        with suppress(Interrupted):
            api.run(plan, observer=Stops(steps))
        (newest,) = (folder / "run" / "checkpoints").glob("step-*")
        written = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
        with suppress(Interrupted):
            api.run(plan, resume=True, observer=Stops(0))
    finally:
        for end in ends:
            end()
    weights = sum(each.numel() for each in load_file(folder / "world" / "vita" / "model.safetensors").values())
    took, sizes = statistics.median(saved), SIZES[size]
    return (
        f"| {sizes['num_layers']} x {sizes['hidden_size']} | {weights / 1e6:.2f} | {written / 1e6:.1f} | {took:.3f} "
        f"| {written / 1e6 / took:,.0f} | {restored[0]:.3f} |"
    )


@final
class Stops(Display):
    """Asks for the end of a run once it has made so many steps."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def step(self, values: Mapping[str, float], steps_done: int) -> None:
        if steps_done >= self._steps:
            os.kill(os.getpid(), signal.SIGTERM)

    def start(self, run: RunInfo) -> None: ...
    def stage(self, name: str, steps: int) -> None: ...
    def evaluation(self, split: str, values: Mapping[str, float], when: str) -> None: ...
    def message(self, text: str) -> None: ...
    def progress(self, what: str, done: int, total: int) -> None: ...
    def finish(self, summary: str) -> None: ...
    def close(self) -> None: ...


def beside_bare(steps: int, _: Device) -> Iterator[str]:
    """The engine under ZeRO beside a bare DeepSpeed loop."""
    overhead.keep_freed_memory()
    yield "| network | engine | with WavAlign ms | bare ms | overhead (quartiles) | of processor time | same loss |"
    yield "|---|---|---:|---:|---:|---:|---|"
    for stage in range(4):
        point = Point("S", 32_000, 0.5, beta=0.0, warm_up=3, steps=max(8, steps), prompts=2)
        with tempfile.TemporaryDirectory() as made:
            row = overhead.measure(point, Path(made), zero=stage)
        sizes, wall, busy = SIZES["S"], row["wall"], row["cpu"]["overhead"][1]
        low, middle, high = wall["overhead"]
        yield (
            f"| {sizes['num_layers']} x {sizes['hidden_size']} | ZeRO {stage} | {1000 * wall['engine']:.1f} "
            f"| {1000 * wall['bare']:.1f} | {middle:+.1%} ({low:+.1%} to {high:+.1%}) | {busy:+.1%} "
            f"| {'yes' if row['loss'] <= overhead.LOSS_TOLERANCE else 'NO'} ({row['loss']:.0e}) |"
        )


PARTS: Mapping[str, Callable[[int, Device], Iterator[str]]] = {
    "zero": zero, "overhead": beside_bare, "checkpoints": checkpoints,
}  # fmt: skip


def main() -> None:
    """Print rows as they come."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    device: Device = "cuda" if asked.cuda else "cpu"
    if asked.rank is not None:
        rank(asked.rank, asked.steps, device)
        return
    name = torch.cuda.get_device_name() if asked.cuda else overhead.cpu_name()
    print(f"python {' '.join(sys.argv)}\n{name}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(", ".join([f"python {platform.python_version()}", *(f"{x} {version(x)}" for x in ("torch", "deepspeed"))]))
    began = time.monotonic()
    for part in asked.parts:
        if asked.cuda and time.monotonic() - began > CUDA_SECONDS:
            print(f"\n{part}: not run, out of time")
            continue
        print(f"\n## {part}\n", flush=True)
        for line in PARTS[part](asked.steps, device):
            print(line, flush=True)


if __name__ == "__main__":
    main()
