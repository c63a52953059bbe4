"""A GRPO training step beside TRL's GRPOTrainer: first whether both compute the same, then time and memory.

    python benchmarks/grpo_step.py [--quick] [--json FILE] [--sizes T S] [--vocabularies N ...] [--masks D ...]

Every point runs in a process of its own, the contenders in turn; see `benchmarks/grpo/` for what they share.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.grpo.point import CONTENDERS, SIZES, Contender, Measured, Point

LOSS_TOLERANCE, RELATIVE_LOSS, NORM_TOLERANCE, WEIGHT_TOLERANCE = 1e-6, 1e-5, 1e-4, 1e-5
TIE = 0.05
"""Ratios within this of 1 are called a tie."""
MEMORY_SHARE = 0.7
"""Of the free memory: what the research pattern may be expected to need."""
NAMES: dict[Contender, str] = {"ours": "WavAlign", "trl": "TRL", "research": "research pattern"}
DISCLOSURE = """\
What is compared: one optimiser step, from the prompts of a step to the updated weights, rewards and all bookkeeping in
between. WavAlign runs a compiled recipe (type vita without prediction modules, which is a Qwen2), TRL its GRPOTrainer
over the same weights file. Prompts, completions, behaviour log-probs, rewards, loss, clip, reference, AdamW, float32
and threads are equal, lengths too, so that padding favours nobody. The mask is the text tokens for WavAlign and the
trainer's `env_mask` for TRL. Rows with demonstrations, which TRL's GRPO does not have, are left out.
The research pattern is a bare loop with three log-softmaxes over [rows, tokens, vocabulary]: no framework around it.

What to keep in mind:
- CPU only, small networks. Nothing here says anything about a GPU, and no ratio carries over to a large model.
- TRL is not tuned for CPUs. Without Triton its fused head scores every position, prompt and padding included, in tiles
  of up to 4096 x 32768 numbers (512 MiB), and it always computes the entropy. With Triton it scores completion
  positions only. WavAlign scores the mask's positions everywhere.
- WavAlign writes a line of metrics every step; TRL's logging is off while it is timed.
- The smaller the vocabulary and the denser the mask, the less there is to save; ties and losses are listed below."""


@final
@dataclass(slots=True)
class Results:
    """Everything that was measured, for `--json`."""

    stamp: dict[str, Any]
    parity: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)


@final
class Bench:
    """Worlds and processes of one invocation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._worlds: dict[tuple[Any, ...], Path] = {}
        self._runs = itertools.count()

    def world(self, point: Point) -> Path:
        """The folder of what a point shares, made once."""
        key = point.world()
        if key not in self._worlds:
            path = self.folder / f"world-{len(self._worlds)}"
            _spawn({"do": "world", "point": point.to_dict(), "world": str(path)}, point.threads)
            self._worlds[key] = path
        return self._worlds[key]

    def run(self, contender: Contender, point: Point, *, log: bool = False) -> tuple[Measured, Path]:
        """Measure in a fresh process."""
        world, folder = self.world(point), self.folder / f"run-{next(self._runs)}"
        order = {"do": contender, "point": point.to_dict(), "world": str(world), "folder": str(folder), "log": log}
        answer = _spawn(order, point.threads)
        return Measured(**answer["measured"]), Path(answer["weights"])


def _spawn(order: dict[str, Any], threads: int) -> dict[str, Any]:
    """Run this file on an order and give its answer, the last line it prints."""
    quiet = {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    count = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, __file__, "--order", json.dumps(order)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **quiet, **count})
    if done.returncode:
        raise SystemExit(f"{order['do']} failed on {order['point']}:\n{done.stderr[-4000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def obey(order: dict[str, Any]) -> dict[str, Any]:
    """What a spawned process does; each contender is imported only where it runs, so that memory is its own."""
    point, world = Point.from_dict(order["point"]), Path(order["world"])
    if order["do"] == "world":
        from benchmarks.grpo.world import write_world

        write_world(point, world)
        return {}
    folder = Path(order["folder"])
    if order["do"] == "ours":
        from benchmarks.grpo import ours

        measured, weights = ours.measure(point, world, folder)
    elif order["do"] == "trl":
        from benchmarks.grpo import theirs

        measured, weights = theirs.measure(point, world, folder, log=order["log"])
    else:
        from benchmarks.grpo import research

        measured, weights = research.measure(point, world, folder)
    return {"measured": asdict(measured), "weights": str(weights)}


# --- parity -----------------------------------------------------------------------------------------------------------


def parity_points(options: argparse.Namespace) -> list[Point]:
    """Small, ragged, twenty steps, every loss type in some combination."""
    base = Point("T", 2048, 0.5, prompts=3, prompt_length=32, completion_length=24, ragged=True)
    base = replace(base, warm_up=0, steps=20, threads=options.threads)
    if options.quick:
        return [base]
    return [
        base,
        replace(base, loss_type="dapo", beta=0.0, tied=False, density=0.2),
        replace(base, loss_type="dr_grpo", tied=False, density=1.0),
        replace(base, loss_type="bnpo", vocabulary=32_000),
        replace(base, size="S", vocabulary=32_000, density=0.2),
    ]


def check_parity(bench: Bench, points: Sequence[Point]) -> list[dict[str, Any]]:
    """Loss, gradient norm and weights of every point against ours, a row per other contender."""
    print("\n## Parity (float32)\n")
    print("| network | vocabulary | mask | head | loss | beta | against | loss | norm | weights | moved | holds |")
    print("|---|---:|---:|---|---|---:|---|---:|---:|---:|---:|---|")
    rows = []
    for point in points:
        ours = bench.run("ours", point)
        for name in _others(point, quick=len(points) == 1):
            theirs = bench.run(name, point, log=True)
            row = {"point": point.to_dict(), "against": name, **_differences(ours, theirs, bench.world(point))}
            rows.append(row)
            print(
                f"| {point.size} | {point.vocabulary:,} | {point.density:.0%} | {'tied' if point.tied else 'own'} "
                f"| {point.loss_type} | {point.beta} | {NAMES[name]} | {row['loss']:.1e} | {row['norm']:.1e} "
                f"| {row['weights']:.1e} | {row['moved']:.1e} | {'yes' if row['holds'] else 'NO'} |",
                flush=True,
            )
    print(
        f"\nLargest differences over {points[0].total_steps} steps: loss (absolute; allowed {LOSS_TOLERANCE:g} + "
        f"{RELATIVE_LOSS:g} of it), gradient norm (relative; {NORM_TOLERANCE:g}), weights after the last step "
        f"(absolute; {WEIGHT_TOLERANCE:g}). `moved` is the farthest a weight went."
    )
    return rows


def _others(point: Point, *, quick: bool) -> list[Contender]:
    """The research loop knows one mean only, and is checked on the small network."""
    return ["trl", "research"] if (point.size, point.loss_type) == ("T", "grpo") and not quick else ["trl"]


def _differences(ours: tuple[Measured, Path], theirs: tuple[Measured, Path], world: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    (mine, my_file), (other, their_file) = ours, theirs
    pairs = list(zip(mine.losses, other.losses, strict=True))
    norms = list(zip(mine.grad_norms, other.grad_norms, strict=True))
    loss_holds = all(abs(a - b) <= LOSS_TOLERANCE + RELATIVE_LOSS * abs(b) for a, b in pairs)
    norm = max(abs(a - b) / b for a, b in norms)
    my, their, first = (load_file(file) for file in (my_file, their_file, world / "vita" / "model.safetensors"))
    if my.keys() != their.keys():
        raise SystemExit(f"the contenders wrote different weights: {sorted(my.keys() ^ their.keys())}")
    weights = max(float((my[name] - their[name]).abs().max()) for name in my)
    moved = max(float((my[name] - first[name]).abs().max()) for name in my)
    holds = loss_holds and norm <= NORM_TOLERANCE and weights <= WEIGHT_TOLERANCE
    loss = max(abs(a - b) for a, b in pairs)
    return {"loss": loss, "norm": norm, "weights": weights, "moved": moved, "holds": holds}


# --- speed ------------------------------------------------------------------------------------------------------------


def step_points(options: argparse.Namespace) -> Iterator[Point]:
    """Networks x vocabularies x masks, completions replayed."""
    for size, vocabulary, density in itertools.product(options.sizes, options.vocabularies, options.masks):
        yield _sized(options, Point(size, vocabulary, density))


def sampling_points(options: argparse.Namespace) -> Iterator[Point]:
    """Networks x vocabularies but the largest, completions sampled."""
    for size, vocabulary in itertools.product(options.sizes, options.vocabularies[:2]):
        yield _sized(options, Point(size, vocabulary, options.masks[0], sampling=True))


def _sized(options: argparse.Namespace, point: Point) -> Point:
    point = replace(point, steps=options.steps, threads=options.threads, beta=options.beta)
    return replace(point, prompts=2, prompt_length=32, completion_length=32) if options.quick else point


def measure(bench: Bench, points: Sequence[Point], rounds: int) -> list[dict[str, Any]]:
    """Every contender on every point, in turn, `rounds` times."""
    rows = []
    for point in points:
        wanted = [name for name in CONTENDERS if _can(name, point)]
        pooled: dict[str, list[Measured]] = {name: [] for name in wanted}
        for _ in range(rounds):
            for name in wanted:
                pooled[name].append(bench.run(name, point)[0])
        row = {"point": point.to_dict(), **{name: _summary(many) for name, many in pooled.items()}}
        rows.append(row)
        print(_time_row(point, row), flush=True)
    return rows


def _can(name: Contender, point: Point) -> bool:
    """Whether a contender takes part: the research loop samples nothing and may not fit."""
    if name != "research":
        return True
    from benchmarks.grpo.research import bytes_needed

    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return not point.sampling and bytes_needed(point) <= MEMORY_SHARE * free


def _summary(many: Sequence[Measured]) -> dict[str, Any]:
    wall, cpu = ([value for each in many for value in getattr(each, what)] for what in ("wall", "cpu"))
    return {
        "wall": _quartiles(wall),
        "cpu": _quartiles(cpu),
        "peak": statistics.median(each.peak for each in many),
        "before": statistics.median(each.before for each in many),
        "new_tokens": statistics.fmean(value for each in many for value in each.new_tokens or [float("nan")]),
        "samples": len(wall),
    }


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


HEADING = (
    "| network | vocabulary | mask | " + " | ".join(f"{NAMES[name]} ms" for name in CONTENDERS) + " | "
    "TRL : ours | CPU : CPU | research : ours | " + " | ".join(f"{NAMES[name]} MiB" for name in CONTENDERS) + " |"
)


def _heading() -> None:
    print(HEADING)
    print("|---|---:|---:|" + "---:|" * (HEADING.count("|") - 4))


def _time_row(point: Point, row: dict[str, Any]) -> str:
    times, sizes = [], []
    for name in CONTENDERS:
        if name not in row:
            times.append("-")
            sizes.append("-")
            continue
        low, middle, high = (1000 * value for value in row[name]["wall"])
        times.append(f"{middle:.1f} ({high - low:.1f}; CPU {1000 * row[name]['cpu'][1]:.1f})")
        sizes.append(f"{row[name]['peak'] / 2**20:.0f} (+{(row[name]['peak'] - row[name]['before']) / 2**20:.0f})")
    ratios = [_ratio(row, "trl", "wall"), _ratio(row, "trl", "cpu"), _ratio(row, "research", "wall")]
    shown = ["-" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
    cells = [point.size, f"{point.vocabulary:,}", _mask(point), *times, *shown, *sizes]
    return "| " + " | ".join(cells) + " |"


def _mask(point: Point) -> str:
    """What the loss sees; of sampled answers it is all."""
    return "all" if point.sampling else f"{point.density:.0%}"


def _ratio(row: dict[str, Any], name: str, what: str) -> float | None:
    """How many times ours."""
    if name not in row:
        return None
    return float(row[name][what][1] / row["ours"][what][1])


def not_won(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Where a contender is as fast as we are, or faster, by processor time."""
    lines = []
    for row in rows:
        point = Point.from_dict(row["point"])
        for name in ("trl", "research"):
            ratio = _ratio(row, name, "cpu")
            if ratio is not None and ratio < 1 + TIE:
                word = "tie" if ratio >= 1 - TIE else "LOSS"
                kind = "sampled" if point.sampling else f"mask {_mask(point)}"
                lines.append(f"- {word}: {point.size}, {point.vocabulary:,}, {kind}: {NAMES[name]} takes {ratio:.2f}x")
    return lines


# --- the whole --------------------------------------------------------------------------------------------------------


def stamp(options: argparse.Namespace) -> dict[str, Any]:
    """Where and with what this was measured."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = next((line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")), "unknown")
    git = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    names = ("torch", "transformers", "trl", "accelerate")
    return {
        "command": " ".join(["python", *sys.argv]),
        "cpu": f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "threads": options.threads,
        "python": platform.python_version(),
        **{name: version(name) for name in names},
        "commit": git.stdout.strip(),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a minute or two: one check of parity, one small point replayed and sampled",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    parser.add_argument("--sizes", nargs="+", choices=sorted(SIZES), default=["T", "S"])
    parser.add_argument("--vocabularies", nargs="+", type=int, default=[2_048, 32_000, 151_936])
    parser.add_argument("--masks", nargs="+", type=float, default=[0.2, 0.5, 1.0])
    parser.add_argument("--beta", type=float, default=0.04, help="pull towards the reference; 0 loads none")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2, help="processes per contender and point")
    parser.add_argument("--steps", type=int, default=4, help="measured steps per process, after 3 of warm-up")
    parser.add_argument("--order", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.sizes, options.vocabularies, options.masks, options.rounds = ["T"], [32_000], [0.2], 1
    return options


def main() -> int:
    options = arguments()
    if options.order:
        print(json.dumps(obey(json.loads(options.order))))
        return 0
    results = Results(stamp(options))
    print("# GRPO step: WavAlign, TRL, and the research pattern\n\n" + DISCLOSURE + "\n")
    print("\n".join(f"{name}: {value}" for name, value in results.stamp.items()))
    with tempfile.TemporaryDirectory(prefix="grpo-step-") as folder:
        bench = Bench(Path(folder))
        results.parity = check_parity(bench, parity_points(options))
        if all(row["holds"] for row in results.parity):
            print("\n## A step on frozen completions: median (interquartile range; CPU time), peak (grown by)\n")
            _heading()
            results.steps += measure(bench, list(step_points(options)), options.rounds)
            print("\n## A step with sampling: transformers' generate in TRL, kv_cache here\n")
            _heading()
            results.steps += measure(bench, list(sampling_points(options)), options.rounds)
            for row in results.steps:
                if row["point"]["sampling"]:
                    lengths = ", ".join(f"{NAMES[name]} {row[name]['new_tokens']:.1f}" for name in ("ours", "trl"))
                    print(f"\nMean new tokens, {row['point']['size']} {row['point']['vocabulary']:,}: {lengths}")
            print("\nNot won, by processor time:", *(not_won(results.steps) or ["nothing of the above"]), sep="\n")
    if options.json:
        options.json.write_text(json.dumps(asdict(results), indent=1) + "\n", encoding="utf-8")
    if not results.steps:
        print("\nThe contenders do not compute the same, so nothing was timed.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
