"""What the engine adds to a training step: a compiled recipe beside a bare loop over the same rows, in one process.

    python benchmarks/overhead.py [--quick] [--sizes T S L] [--steps N] [--profile] [--threads N] [--json FILE]

Both start from the same weights and learn from the same frozen answers (text-token GRPO) and demonstrations (SFT).
After every step of the engine the bare loop makes the same step, so that what else the machine does meets both alike.
"""

import argparse
import cProfile
import ctypes
import gc
import json
import os
import platform
import pstats
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.grpo import ours
from benchmarks.grpo.point import ADVANTAGE_EPSILON, BETAS, CLIP, EPSILON, MAX_NORM, SIZES, Point, reward_of
from benchmarks.grpo.world import WORDS, write_world
from wavalign.engine.api import compile_recipe, run
from wavalign.engine.backends.base import Placement
from wavalign.engine.backends.deepspeed_library import filter_warnings, hushed, join_group, load_library
from wavalign.engine.models.fused_logprobs import Query
from wavalign.engine.models.scored_policy import head_logprobs
from wavalign.engine.models.starting_weights import StartingWeights
from wavalign.engine.run.observers import Observer, RunInfo
from wavalign.engine.state.distributed import World
from wavalign.plugins.api import ModelSource
from wavalign.plugins.architectures.vita import VitaAudio, VitaParams
from wavalign.plugins.batch import Dialogue, Message, Role, TokenSequence, collate
from wavalign.schema.loading import load_recipe

SIZES["L"] = {"num_layers": 8, "hidden_size": 512, "intermediate_size": 1376, "num_heads": 8, "num_key_value_heads": 4}
AIM = 0.03
TRIM_THRESHOLD = -1
"""Option of glibc's `mallopt`: how much free memory at the end of the heap goes back to the system."""
LOSS_TOLERANCE, WEIGHT_TOLERANCE = 1e-5, 1e-5
DISCLOSURE = """\
*Engine* is a step of a run: prompts drawn, frozen answers replayed, a reward that takes no time, advantages, rows cut
and collated, denominators, forward, backward, update, metrics written. *Bare* is forward, loss, backward, clip and
AdamW in plain PyTorch over rows that were collated before the first step, with the same network and the same product
with the head. Freed memory stays with the process (`mallopt`), so that neither side pays for pages that the other gave
back. Overhead is the median of the steps' ratios less 1, by the clock and by processor time of all threads, in
brackets their quartiles."""


@final
@dataclass(frozen=True, slots=True)
class Rows:
    """What the bare loop learns from, collated once: B rows of T tokens, N scored positions."""

    batch: Any
    place: tuple[Tensor, Tensor]
    """Row and position [N] of the hidden state that predicts each scored token."""
    targets: Tensor
    """[N]."""
    old: Tensor
    """[N] log-probs that answers were frozen with, 0 of demonstrations."""
    advantages: Tensor
    """[N], 0 of demonstrations."""
    sampled: Tensor
    """Bool [N]."""


def recipe(point: Point, world: Path, folder: Path) -> dict[str, Any]:
    """The point as a recipe, with demonstrations beside the frozen answers."""
    found = ours.recipe(point, world, folder)
    terms = found["objective"]["terms"]
    terms["rl"] |= {"loss": {"type": "grpo", "clip": CLIP}, "aggregation": "token"}
    terms["sft"] = {"loss": "cross_entropy", "tokens": "all", "aggregation": "token"}
    found["data"]["demonstrations"] = {"type": "jsonl", "path": str(world / "demonstrations.jsonl")}
    rows = {"share_prompts": False, "packing": False, "skip_without_signal": False}  # the bare loop's rows are dense
    found["batch"] |= {"demonstrations": point.prompts, **rows}
    return found


def write_demonstrations(point: Point, world: Path) -> list[Dialogue]:
    """As many dialogues as there are prompts, in the file that the recipe reads."""
    rng, lines, found = random.Random(1), [], []
    for index in range(point.prompts):
        asked, said = (
            " ".join(f"w{rng.randrange(WORDS - 5)}" for _ in range(count))
            for count in (point.prompt_length - 10, point.completion_length - 1)
        )
        lines.append(json.dumps({"messages": [{"role": "user", "text": asked}], "target": {"text": said}}))
        found.append(Dialogue(str(index), (Message("user", asked),), Message("assistant", said)))
    (world / "demonstrations.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return found


@final
class Bare:
    """The bare loop."""

    def __init__(
        self, point: Point, world: Path, demonstrations: Sequence[Dialogue], *, zero: int | None = None
    ) -> None:
        """By PyTorch alone, or by DeepSpeed under ZeRO `zero`."""
        self._architecture = VitaAudio(VitaParams(), source=ModelSource(str(world / "vita"), None, None))
        weights = StartingWeights(self._architecture, folder=str(world / "vita"), seed=0)
        self.policy = weights.policy(Placement(torch.device("cpu")))
        self._rows = self._collated(point, world, demonstrations)
        self._optimizer = torch.optim.AdamW(
            self.policy.parameters(), lr=point.learning_rate, betas=BETAS, eps=EPSILON, weight_decay=0.0, fused=True
        )
        self._engine = None if zero is None else _under_zero(self, self._optimizer, zero)
        self.losses: list[float] = []

    def step(self) -> None:
        """Forward, loss, backward, clip, update."""
        if self._engine is not None:
            loss = self._engine(self)
            self._engine.backward(loss)
            self._engine.step()
            self.losses.append(loss.item())
            return
        loss = self.loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), MAX_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.losses.append(loss.item())

    def loss(self) -> Tensor:
        """Of all rows, []."""
        rows = self._rows
        hidden = self.policy.hidden(rows.batch, frozenset({0}))[0]
        query = Query(rows.targets, None, None)
        logprobs, _ = head_logprobs(hidden[rows.place], self.policy.head_weight(0), query)
        ratio = (logprobs - rows.old).exp()
        gains = torch.minimum(ratio * rows.advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * rows.advantages)
        answers = torch.where(rows.sampled, -gains, 0.0).sum() / rows.sampled.sum()
        demonstrations: Tensor = torch.where(rows.sampled, 0.0, -logprobs).sum() / (~rows.sampled).sum()
        return answers + demonstrations

    def weights(self) -> dict[str, Tensor]:
        """Every weight [*] of the network, whole."""
        with ExitStack() as gathered:
            if self._engine is not None and self._engine.zero_optimization_stage() == 3:
                library = load_library(torch.device("cpu"))
                gathered.enter_context(library.zero.GatheredParameters(list(self.policy.parameters())))
            return {name: each.clone() for name, each in self.policy.state_dict().items()}

    def _collated(self, point: Point, world: Path, demonstrations: Sequence[Dialogue]) -> Rows:
        frozen = json.loads((world / "frozen.json").read_text(encoding="utf-8"))
        rewards = torch.tensor([[reward_of(each["ids"]) for each in group] for group in frozen["answers"]]).double()
        centred = rewards - rewards.mean(dim=1, keepdim=True)
        advantages = (centred / (rewards.std(dim=1, keepdim=True) + ADVANTAGE_EPSILON)).float()
        rows: list[tuple[TokenSequence, int, Tensor, Tensor, float]] = []
        for prompt, group, gains in zip(frozen["prompts"], frozen["answers"], advantages.tolist(), strict=True):
            for answer, gain in zip(group, gains, strict=True):
                ids = torch.tensor([[*prompt, *answer["ids"]]])
                seen = torch.tensor(answer["mask"]) > 0
                rows.append((_row(ids), len(prompt), seen, torch.tensor(answer["logprobs"]), gain))
        for dialogue in demonstrations:
            first = self._architecture.encode_prompt(dialogue, lambda _: ())
            second = self._architecture.encode_target(dialogue, lambda _: ())
            scored = torch.ones(second.length, dtype=torch.bool)
            ids = torch.cat([first.ids, second.ids], dim=1)
            rows.append((_row(ids), first.length, scored, torch.zeros(second.length), float("nan")))
        places = [(number, start + int(t)) for number, (_, start, seen, *_) in enumerate(rows) for t in seen.nonzero()]
        batch = collate([row for row, *_ in rows], self._architecture.tokens)
        row, position = torch.tensor(places).unbind(dim=1)
        gains = torch.cat([torch.full((int(seen.sum()),), gain) for _, _, seen, _, gain in rows])
        return Rows(
            batch,
            (row, position - 1),
            batch.ids[row, 0, position],
            torch.cat([old[seen] for _, _, seen, old, _ in rows]),
            gains.nan_to_num(),
            ~gains.isnan(),
        )


@final
class _Losing(torch.nn.Module):
    """The network as a module whose forward pass is the loss, as DeepSpeed wants it."""

    def __init__(self, policy: torch.nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, bare: Bare) -> Tensor:
        """[]."""
        return bare.loss()


def _under_zero(bare: Bare, optimizer: torch.optim.Optimizer, stage: int) -> Any:
    """DeepSpeed's engine around the network of `bare`, one process."""
    library = load_library(torch.device("cpu"))
    join_group(World.single("cpu"))
    filter_warnings()
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": MAX_NORM,
        "zero_optimization": {"stage": stage},
    }
    module = _Losing(bare.policy)
    with hushed():
        if stage == 3:
            library.zero.register_external_parameter(module, bare.policy.head_weight(0))
        engine, *_ = library.initialize(model=module, optimizer=optimizer, config=config)
    return engine


def _row(ids: Tensor) -> TokenSequence:
    """Ids [1, T], all of them text: the bare loop knows by itself what is scored."""
    return TokenSequence(ids, torch.full(ids.shape, int(Role.TEXT), dtype=torch.int8))


@final
class Interleaved(Observer):
    """Times every step of a run, and after each one of the bare loop."""

    def __init__(self, point: Point, bare: Bare, profiler: cProfile.Profile | None) -> None:
        self._point, self._bare, self._profiler = point, bare, profiler
        self.engine: list[tuple[float, float]] = []
        """Wall and processor seconds of each measured step."""
        self.bare: list[tuple[float, float]] = []
        self.losses: list[float] = []
        self._began = _now()

    def stage(self, name: str, steps: int) -> None:
        self._begin()

    def step(self, values: Mapping[str, float], steps_done: int) -> None:
        took = _since(self._began)
        if self._profiler is not None:
            self._profiler.disable()
        self.losses.append(values["loss"])
        began = _now()
        self._bare.step()
        if steps_done > self._point.warm_up:
            self.engine.append(took)
            self.bare.append(_since(began))
        gc.collect()
        self._begin()

    def _begin(self) -> None:
        if self._profiler is not None and len(self.losses) >= self._point.warm_up:
            self._profiler.enable()
        self._began = _now()

    def start(self, run: RunInfo) -> None: ...
    def evaluation(self, split: str, values: Mapping[str, float], when: str) -> None: ...
    def message(self, text: str) -> None: ...
    def progress(self, what: str, done: int, total: int) -> None: ...
    def finish(self, summary: str) -> None: ...
    def close(self) -> None:
        if self._profiler is not None:
            self._profiler.disable()


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(began: tuple[float, float]) -> tuple[float, float]:
    wall, busy = _now()
    return wall - began[0], busy - began[1]


def measure(
    point: Point, folder: Path, profiler: cProfile.Profile | None = None, *, zero: int | None = None
) -> dict[str, Any]:
    """Both sides of a point, by PyTorch alone or both under ZeRO `zero`."""
    world = folder / "world"
    write_world(point, world)
    bare = Bare(point, world, write_demonstrations(point, world), zero=zero)
    path, said = folder / "recipe.yaml", recipe(point, world, folder / "run")
    if zero is not None:
        said["runtime"]["engine"] = {"type": "deepspeed", "zero": zero}
    path.write_text(json.dumps(said), encoding="utf-8")
    watch = Interleaved(point, bare, profiler)
    finished = run(compile_recipe(load_recipe(str(path))), observer=watch)
    mine = load_file(finished / "model" / "model.safetensors")
    theirs = bare.weights()
    ratios = [[a[i] / b[i] for a, b in zip(watch.engine, watch.bare, strict=True)] for i in (0, 1)]
    middle = [[statistics.median(each[i] for each in side) for side in (watch.engine, watch.bare)] for i in (0, 1)]
    return {
        "point": point.to_dict(),
        "loss": max(abs(a - b) for a, b in zip(watch.losses, bare.losses, strict=True)),
        "weights": max(float((mine[name] - theirs[name]).abs().max()) for name in mine),
        "wall": {"engine": middle[0][0], "bare": middle[0][1], "overhead": _quartiles(ratios[0])},
        "cpu": {"engine": middle[1][0], "bare": middle[1][1], "overhead": _quartiles(ratios[1])},
    }


def _quartiles(ratios: Sequence[float]) -> list[float]:
    """Lower quartile, median, upper quartile of ratios, less 1."""
    return [each - 1 for each in statistics.quantiles(ratios, n=4, method="inclusive")]


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    point = row["point"]
    sizes = SIZES[point["size"]]
    tokens = point["prompts"] * (point["group_size"] + 1) * (point["prompt_length"] + point["completion_length"])
    network = f"{sizes['num_layers']} x {sizes['hidden_size']}"
    cells = [point["size"], network, f"{point['vocabulary']:,}", f"{tokens:,}"]
    for what in ("wall", "cpu"):
        low, middle, high = row[what]["overhead"]
        cells += [f"{1000 * row[what]['engine']:.1f}", f"{1000 * row[what]['bare']:.1f}"]
        cells.append(f"{middle:+.1%} ({low:+.1%} to {high:+.1%})")
    same = row["loss"] <= LOSS_TOLERANCE and row["weights"] <= WEIGHT_TOLERANCE
    cells.append(f"{'yes' if same else 'NO'} ({row['loss']:.0e}, {row['weights']:.0e})")
    return f"| {' | '.join(cells)} |"


def keep_freed_memory() -> None:
    """From here on freed memory stays with the process, so that no side pays for pages that another gave back."""
    ctypes.CDLL(None).mallopt(TRIM_THRESHOLD, 2**31 - 1)


def cpu_name() -> str:
    """As Linux says it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((each.split(":")[1].strip() for each in lines if each.startswith("model name")), platform.machine())


def points(options: argparse.Namespace) -> list[Point]:
    """The sizes that are asked for."""
    base = Point("T", 2048, 0.5, beta=0.0, warm_up=3, steps=options.steps, threads=options.threads)
    found = [replace(base, size=size, vocabulary=2048 if size == "T" else 32_000) for size in options.sizes]
    return [replace(each, warm_up=1, prompts=2) if options.quick else each for each in found]


def main() -> None:
    """Measure, and print a row as soon as there is one."""
    parser = argparse.ArgumentParser(description="What the engine adds to a training step.")
    parser.add_argument("--quick", action="store_true", help="a few short steps")
    parser.add_argument("--sizes", nargs="+", choices=sorted(SIZES), default=["T", "S", "L"])
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--profile", action="store_true", help="also where the engine's steps of each point go")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    options.steps = options.steps or (5 if options.quick else 20)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    git = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    about = {
        "command": " ".join(["python", *sys.argv]),
        "device": f"{cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "torch": version("torch"),
        "commit": git.stdout.strip(),
    }
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    print(
        "\n| network | layers | vocabulary | tokens | engine ms | bare ms | overhead | CPU: engine ms | bare ms ",
        end="",
    )
    print("| overhead | same numbers (loss, weights) |\n|---|---|---:|---:|" + "---:|" * 6 + "---|", flush=True)
    rows = []
    for point in points(options):
        profiler = cProfile.Profile() if options.profile else None
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(point, Path(folder), profiler))
        print(line(rows[-1]), flush=True)
        if profiler is not None:
            stats = pstats.Stats(profiler)
            stats.sort_stats("cumulative").print_stats(60)
            stats.sort_stats("tottime").print_stats(30)
    above = [row["point"]["size"] for row in rows if row["cpu"]["overhead"][1] > AIM]
    print(f"\nAbove {AIM:.0%}: {', '.join(above) or 'none'}.\n\n{DISCLOSURE}")
    if options.json is not None:
        options.json.write_text(json.dumps({"stamp": about, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
