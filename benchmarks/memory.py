"""Memory as the plan estimates it beside what a process takes at its fullest, one configuration after the other.

    python benchmarks/memory.py [--device cpu|cuda] [--only NAME ...] [--plain] [--rows] [--scale N] [--json FILE]

Every configuration is a recipe that is compiled, looked at as `--dry-run` does and run whole, in a process of its own.
"""

import argparse
import ctypes
import gc
import importlib
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.grpo.point import resident

BOUND = 0.15
"""How far an estimate may lie from what was measured."""
MIB = 2**20
THRESHOLD = 65536
"""Bytes from which glibc takes memory from the system, and gives it back, piece by piece."""
WORDS = 1000
NETWORK = {"hidden_size": 512, "intermediate_size": 1536, "num_layers": 6, "num_heads": 8, "num_key_value_heads": 4}
"""By the names of `VitaSizes`: 26 M weights beside the embedding."""
WIDE = 100_000
"""Codes of a wide vocabulary."""
SFT = {"sft": {"loss": "cross_entropy", "tokens": "all"}}
KL = {"type": "grpo", "kl": {"coefficient": 0.05}}
SAMPLED = {"rl": {"loss": KL, "tokens": "all"}}
DISCLOSURE = """\
*Estimate* is what `--dry-run` prints. On a CPU *measured* is the highest resident memory of the process over what was
resident before the network was made, all imports done, with MALLOC_MMAP_THRESHOLD_=65536: glibc then gives freed
tensors back at once, so that resident is what tensors take. *Allocator as it is* is the same without that setting. On
CUDA it is the most that PyTorch had allocated (*reserved*: with what its allocator holds back), and the estimate is
taken without the row for CUDA's own context, which stands in neither."""


@final
@dataclass(frozen=True, slots=True)
class Point:
    """A configuration: what differs from `base`."""

    name: str
    what: str
    changes: Mapping[str, Any]
    """Dotted path -> value of the recipe."""
    network: Mapping[str, Any] = field(default_factory=dict)
    """Sizes that differ."""
    words: tuple[int, int] = (56, 56)
    """Of a question and of an answer."""
    imports: tuple[str, ...] = ()
    """Modules that the run imports late."""


POINTS = (
    Point("sft", "demonstrations alone", {"objective.terms": SFT, "batch.demonstrations": 8}),
    Point(
        "hybrid",
        "sampled answers, a reference, demonstrations",
        {"objective.terms": {**SAMPLED, **SFT}, "batch": {"prompts": 2, "demonstrations": 4}},
    ),
    Point(
        "adapter",
        "LoRA, a reference, demonstrations",
        {
            "objective.terms": {**SAMPLED, **SFT},
            "batch": {"prompts": 2, "demonstrations": 4},
            "model.adapter": {"type": "lora", "rank": 16},
        },
        imports=("peft",),
        network={"num_layers": 10},
    ),
    Point(
        "checkpointing",
        "long rows, layers computed again",
        {"objective.terms": SFT, "batch.demonstrations": 8, "runtime.gradient_checkpointing": True},
        words=(80, 120),
    ),
    Point(
        "vocabulary",
        f"{WIDE:,} codes, tied",
        {"objective.terms": SFT, "batch.demonstrations": 4},
        network={"num_codes": WIDE, "tie_embeddings": True, "num_layers": 4},
    ),
    Point(
        "top-p",
        "answers from a cut distribution, and demonstrations",
        {
            "objective.terms": {**SAMPLED, **SFT},
            "batch": {"prompts": 2, "demonstrations": 4},
            "rollout.top_p": 0.9,
            "rollout.top_k": 64,
        },
        network={"num_codes": 32_000},
    ),
    Point(
        "pairs",
        "DPO",
        {"objective.terms": {"prefer": {"loss": "dpo"}}, "batch.families": {"pairs": 4}},
    ),
    Point(
        "critic",
        "PPO with a value network of its own",
        {
            "objective": {
                "advantage": {"type": "gae"},
                "critic": {"type": "separate"},
                "terms": {
                    "rl": {"loss": "grpo", "tokens": "all"},
                    "value": {"loss": {"type": "value"}, "tokens": "all", "weight": 0.1},
                },
            },
            "batch.prompts": 2,
        },
    ),
    Point(
        "generate",
        "a stage that only answers",
        {"stages": [{"name": "sample", "type": "generate"}], "generate": {"chunk": 32}, "rollout.group_size": 4},
        network={"num_layers": 10},
    ),
    Point(
        "bf16",
        "bfloat16 from float32 weights",
        {"objective.terms": SFT, "batch.demonstrations": 2, "runtime.precision": "bf16"},
        words=(8, 12),
    ),
    Point(
        "zero2",
        "ZeRO 2 in bfloat16, sampled answers, a reference",
        {
            "objective.terms": SAMPLED,
            "batch.prompts": 1,
            "rollout.group_size": 2,
            "runtime": {"precision": "bf16", "engine": {"type": "deepspeed", "zero": 2}},
        },
        network={"num_codes": 30_000},
        words=(8, 12),
        imports=("deepspeed",),
    ),
)


def recipe(point: Point, world: Path, folder: Path, *, device: str, scale: int) -> dict[str, Any]:
    """The configuration as a recipe; `scale` multiplies the rows of every step."""
    found: dict[str, Any] = {
        "name": f"memory-{point.name}",
        "plugins": [str(ROOT / "benchmarks" / "grpo" / "replay.py")],
        "model": {
            "architecture": {"type": "vita", "num_codes": 512, **NETWORK, **point.network},
            "preset": "tiny",
            "tokenizer": str(world / "words.json"),
        },
        "data": {
            **{name: _source(world, "single", point.words) for name in ("prompts", "demonstrations")},
            "families": {"pairs": _source(world, "pairs", point.words)},
        },
        "rollout": {"group_size": 4, "temperature": 1.0, "max_new_tokens": point.words[1], "truncated": "keep"},
        "rewards": {"ids": {"type": "replay_ids"}},
        "steps": 2,
        "optim": {"learning_rate": 1e-5},
        "runtime": {
            "device": device,
            "threads": 1,
            "folder": str(folder / "run"),
            "report": False,
            "log_rollouts_every": 0,
        },
    }
    for path, value in point.changes.items():
        _put(found, path.split("."), value)
    for heading in ("prompts", "demonstrations"):
        if heading in found.get("batch", {}):
            found["batch"][heading] *= scale
    if "pairs" not in found.get("batch", {}).get("families", {}):
        del found["data"]["families"]
    return found


def _source(world: Path, kind: str, words: tuple[int, int]) -> dict[str, str]:
    return {"type": "jsonl", "path": str(write_dialogues(world, kind, words))}


def _put(section: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a value; a mapping is merged into one that is there."""
    for name in path[:-1]:
        section = section.setdefault(name, {})
    there = section.get(path[-1])
    if isinstance(value, Mapping) and isinstance(there, dict):
        for name, each in value.items():
            _put(there, [name], each)
    else:
        section[path[-1]] = json.loads(json.dumps(value))


def write_dialogues(world: Path, kind: str, words: tuple[int, int]) -> Path:
    """32 random questions of so many words with answers, or with two answers each."""
    path, rng = world / f"{kind}-{words[0]}-{words[1]}.jsonl", random.Random(0)

    def said(count: int) -> str:
        return " ".join(f"w{rng.randrange(WORDS)}" for _ in range(count))

    lines = []
    for _ in range(32):
        answers = ("chosen", "rejected") if kind == "pairs" else ("target",)
        turn = {"messages": [{"role": "user", "text": said(words[0])}]}
        lines.append(json.dumps({**turn, **{name: {"text": said(words[1])} for name in answers}}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# --- in a process of its own ------------------------------------------------------------------------------------------


def obey(order: dict[str, Any]) -> dict[str, Any]:
    """Estimate a recipe and run it."""
    from wavalign.engine.api import compile_recipe, load_recipe, preflight, run

    plan = compile_recipe(load_recipe(order["recipe"]))
    found = preflight(plan)
    if found.errors:
        raise SystemExit("\n".join(f"{each.what}: {each.message}" for each in found.errors))
    ((_, memory),) = found.memory
    for module in order["import"]:  # of no part of the network, and seconds to import
        importlib.import_module(module)
    watch = watch_memory(plan.device)
    run(plan, observer=watch)
    lines = [{"name": row.name, "bytes": row.bytes, "phase": row.phase, "note": row.note} for row in memory.rows]
    said = memory.total - sum(row.bytes for row in memory.rows if row.name == "CUDA")
    return {"estimate": said, "rows": lines, **watch.highest()}


def watch_memory(device: str) -> Any:
    """The observer that measures; its class is made here so that the parent imports no engine."""
    import torch

    from wavalign.engine.run.observers import Observer, RunInfo
    from wavalign.engine.state.peaks import forget_highest, highest

    @final
    class Watch(Observer):
        """Begins to measure when the network is about to be made."""

        def __init__(self) -> None:
            self._cuda, self._before = device == "cuda", -1

        def waiting(self, what: str, done: int, total: int) -> None:
            if what != "building the model" or self._before >= 0:
                return
            gc.collect()
            if self._cuda:
                self._before = torch.cuda.memory_allocated()
            else:
                ctypes.CDLL(None).malloc_trim(0)
                self._before = resident("VmRSS")
            forget_highest(torch.device(device))

        def highest(self) -> dict[str, int]:
            """Bytes over what was there before."""
            found = {"measured": highest(torch.device(device)) - self._before}
            return found | {"kept": torch.cuda.max_memory_reserved() - self._before} if self._cuda else found

        def start(self, run: RunInfo) -> None: ...
        def stage(self, name: str, steps: int) -> None: ...
        def step(self, values: Mapping[str, float], steps_done: int) -> None: ...
        def evaluation(self, split: str, values: Mapping[str, float], when: str) -> None: ...
        def message(self, text: str) -> None: ...
        def progress(self, what: str, done: int, total: int) -> None: ...
        def finish(self, summary: str) -> None: ...
        def close(self) -> None: ...

    return Watch()


# --- the whole --------------------------------------------------------------------------------------------------------


def measure(point: Point, world: Path, options: argparse.Namespace, *, plain: bool = False) -> dict[str, Any]:
    """Estimate and measure a configuration in a fresh process; `plain` leaves the allocator as it is."""
    folder = world / (f"{point.name}-plain" if plain else point.name)
    folder.mkdir()
    path = folder / "recipe.yaml"
    content = recipe(point, world, folder, device=options.device, scale=options.scale)
    path.write_text(json.dumps(content), encoding="utf-8")
    order = {"recipe": str(path), "import": point.imports}
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    own = {"WAVALIGN_CACHE": str(folder / "cache"), "DS_ACCELERATOR": options.device, **threads}
    if options.device == "cpu" and not plain:
        own["MALLOC_MMAP_THRESHOLD_"] = str(THRESHOLD)
    command = [sys.executable, __file__, "--order", json.dumps(order)]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **own})
    if done.returncode:
        raise SystemExit(f"{point.name} failed:\n{done.stderr[-4000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"name": point.name, "what": point.what, "seconds": time.perf_counter() - began, **answer}


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    ratio = row["estimate"] / row["measured"]
    kept = f"{row['kept'] / MIB:,.0f}" if "kept" in row else "-"
    mark = "" if abs(ratio - 1) <= BOUND else " **outside**"
    sizes = f"{row['estimate'] / MIB:,.0f} | {row['measured'] / MIB:,.0f} | {ratio:.2f}{mark} | {kept}"
    return f"| {row['name']} | {row['what']} | {sizes} | {row['seconds']:.0f} |"


def stamp(options: argparse.Namespace) -> dict[str, str]:
    """Where and with what this was measured."""
    import torch

    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = next((each.split(":")[1].strip() for each in info.splitlines() if each.startswith("model name")), "unknown")
    git = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    device = torch.cuda.get_device_name() if options.device == "cuda" else f"{model}, {os.cpu_count()} cores"
    return {
        "command": " ".join(["python", *sys.argv]),
        "device": device,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers")},
        "commit": git.stdout.strip(),
    }


def main() -> None:
    """Measure what is asked for, and print a line as soon as there is one."""
    options = _options()
    if options.order:
        print(json.dumps(obey(json.loads(options.order))))
        return
    from benchmarks.grpo.world import word_tokenizer

    wanted = [each for each in POINTS if not options.only or each.name in options.only]
    about, rows = stamp(options), []
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    kept = "reserved" if options.device == "cuda" else "allocator as it is"
    print(f"\n| configuration | what | estimate MiB | measured MiB | ratio | {kept} MiB | seconds |")
    print("|---|---|---:|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        word_tokenizer(Path(folder))
        for point in wanted:
            row = measure(point, Path(folder), options)
            if options.device == "cpu" and options.plain:
                row["kept"] = measure(point, Path(folder), options, plain=True)["measured"]
            rows.append(row)
            print(line(row), flush=True)
            for each in row["rows"] if options.rows else ():
                print(f"    {each['phase']:8} {each['bytes'] / MIB:8.1f}  {each['name']}: {each['note']}", flush=True)
    outside = [row["name"] for row in rows if abs(row["estimate"] / row["measured"] - 1) > BOUND]
    print(f"\nOutside {BOUND:.0%}: {', '.join(outside) or 'none'}.\n\n{DISCLOSURE}")
    if options.json is not None:
        options.json.write_text(json.dumps({"stamp": about, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Memory as the plan estimates it beside what a process takes.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[each.name for each in POINTS])
    parser.add_argument("--scale", type=int, default=1, metavar="N", help="times the rows of every step")
    parser.add_argument("--plain", action="store_true", help="on a CPU, also with the allocator as it is")
    parser.add_argument("--rows", action="store_true", help="print what the estimate is made of")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--order", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
