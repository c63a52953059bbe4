"""A training step with prompts computed once, rows packed and silent answers left out, beside the same step without.

    python benchmarks/shared_prompts.py [--quick] [--only POINT ...]

`step` is a whole step of recipes/quickstart.yaml, sampling and rewards in it. The other points are a forward and a
backward pass of a random network over rows of stated lengths. Every number comes from a process of its own, the two
ways in turn; medians of seconds that the processor spent, so that a busy machine moves them less, and of the memory
grown by at the highest. One thread of a CPU unless OMP_NUM_THREADS says.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

from wavalign.engine import api
from wavalign.engine.models.packed_rows import packed, packing_options
from wavalign.engine.models.scored_policy import ScoredPolicy
from wavalign.engine.run.builder import Builder
from wavalign.engine.state.distributed import World
from wavalign.engine.step.step import StepExecutor
from wavalign.plugins.api import Dimensions
from wavalign.plugins.architectures.vita_audio.decoding import DecodingPlan
from wavalign.plugins.architectures.vita_audio.policy import VitaPolicy
from wavalign.plugins.architectures.vita_audio.sizes import VitaSizes
from wavalign.plugins.batch import HeadSpec, Role, TokenSequence, TokenSpace, collate

OFF = ("batch.share_prompts=false", "batch.packing=false", "batch.skip_without_signal=false")
VOCABULARY = 1000
SPACE = TokenSpace(VOCABULARY, 0, ("mix",), (HeadSpec("main", 0),), 8)
Rows = list[tuple[int, int, int]]
"""Group, tokens of its prompt, tokens of the answer."""


def ragged(count: int, shortest: int, longest: int) -> Rows:
    lengths = random.Random(0)
    return [(number, 10, lengths.randint(shortest, longest)) for number in range(count)]


POINTS: Mapping[str, tuple[str, Callable[[], Rows]]] = {
    "short": ("16 prompts of 60 x 8 answers of 5", lambda: [(p, 60, 5) for p in range(16) for _ in range(8)]),
    "long": ("prompt of 1000 x 8 answers of 200", lambda: [(0, 1000, 200) for _ in range(8)]),
    "pairs": ("16 prompts of 200 x 2 answers of 100", lambda: [(p, 200, 100) for p in range(16) for _ in range(2)]),
    "answers": ("prompt of 20 x 8 answers of 300", lambda: [(0, 20, 300) for _ in range(8)]),
    "ragged": ("32 rows of 20 to 300, nothing shared", lambda: ragged(32, 10, 290)),
}
SIZES = VitaSizes(
    vocabulary_size=VOCABULARY,
    hidden_size=256,
    intermediate_size=768,
    num_layers=2,
    num_heads=4,
    num_key_value_heads=2,
    num_mtp_layers=0,
    tie_embeddings=False,
    rope_theta=1e6,
)


def resident(field: str) -> int:
    """Bytes this process holds now (`VmRSS`) or held at most since the last reset (`VmHWM`); Linux."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def grown(work: Callable[[], object]) -> int:
    """Bytes that `work` grew by at its highest."""
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    work()
    return max(resident("VmHWM") - before, 0)


def passes(name: str, *, on: bool) -> dict[str, float]:
    """A forward and a backward pass over the rows of a point."""
    torch.manual_seed(0)
    policy = VitaPolicy(SIZES, DecodingPlan(None, (1, 0)))  # type: ignore[arg-type]  # nothing is decoded
    policy.initialize()
    rows, groups = [], []
    for group, prompt, answer in POINTS[name][1]():
        head = torch.randint(1, VOCABULARY, (prompt,), generator=torch.Generator().manual_seed(group))
        ids = torch.cat([head, torch.randint(1, VOCABULARY, (answer,))])[None]
        roles = torch.full(ids.shape, int(Role.TEXT), dtype=torch.int8)
        roles[:, :prompt] = int(Role.PROMPT)
        rows.append(TokenSequence(ids, roles))
        groups.append(group)
    batch = collate(rows, SPACE)
    sizes = Dimensions(0, SIZES.num_layers, SIZES.hidden_size, SIZES.intermediate_size, 256, VOCABULARY)
    options = packing_options(policy, sizes, share=True, pack=True)
    module, select = ScoredPolicy(policy, SPACE), batch.roles == int(Role.TEXT)
    seconds: list[float] = []

    def work() -> None:
        start = time.process_time()
        given = packed(batch, groups, options) if on and options is not None else batch
        torch.autograd.backward(module(given, select, temperature=1.0)[0].sum())
        seconds.append(time.process_time() - start)

    torch.autograd.backward(module(batch.rows(torch.tensor([0])), select[:1], temperature=1.0)[0].sum())
    size, tokens = grown(work), batch.ids.numel()
    work()
    close = packed(batch, groups, options) if on and options is not None else batch
    return {
        "seconds": min(seconds),
        "bytes": size,
        "tokens": tokens if close.packing is None else close.packing.tokens,
    }


def step(*, on: bool, steps: int) -> dict[str, float]:
    """Whole steps of the quickstart; the first, which everything grows in, is measured for its memory alone."""
    with tempfile.TemporaryDirectory() as folder:
        more = (f"runtime.folder={folder}", "runtime.trackers=[]", "data.evaluation=!replace {}")
        more += ("evaluation.metrics=!replace {}", *(() if on else OFF))
        plan = api.compile_recipe(api.load_recipe(str(ROOT / "recipes" / "quickstart.yaml"), more))
        live = Builder(plan, World.single("cpu"), lambda *_: None).stage(plan.stages[0], None)
        executor = StepExecutor(live)
        found: list[Mapping[str, float]] = []
        spent: list[float] = []

        def work() -> None:
            start = time.process_time()
            found.append(executor.step(len(found)).metrics)
            spent.append(time.process_time() - start)

        size = grown(work)
        for _ in range(1, steps):
            work()
        live.close()
        del found[0], spent[0]
    share = statistics.median(each["learn_seconds"] / each["step_seconds"] for each in found)
    tokens, seconds = statistics.median(each["forward_tokens"] for each in found), statistics.median(spent)
    return {"seconds": seconds, "learn": seconds * share, "bytes": size, "tokens": tokens}


def spawn(name: str, *, on: bool, quick: bool) -> dict[str, float]:
    """Measure in a fresh process."""
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    command = [sys.executable, __file__, "--point", name, str(int(on)), str(int(quick))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def obey(name: str, on: str, quick: str) -> dict[str, float]:
    """What a spawned process does."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if name.startswith("step"):
        return step(on=on == "1", steps=3 if quick == "1" else 8)
    return passes(name, on=on == "1")


def lines(name: str, what: str, found: Mapping[bool, list[dict[str, Any]]]) -> list[str]:
    """A row of the table, and of `step` a second one for its learning alone."""
    middle = {on: {key: statistics.median(each[key] for each in runs) for key in runs[0]} for on, runs in found.items()}
    memory, tokens = (f"{middle[False][key] / max(middle[True][key], 1):.1f}" for key in ("bytes", "tokens"))

    def row(label: str, key: str, rest: str) -> str:
        off, on = middle[False][key], middle[True][key]
        return f"| {label} | {1000 * off:.0f} | {1000 * on:.0f} | {off / on:.2f} | {rest} |"

    cells = f"{memory} | {tokens}"
    if name != "step":
        return [row(what, "seconds", cells)]
    return [row(what, "seconds", cells), row("of it learning", "learn", " | ")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="once, and few steps: does it run")
    parser.add_argument("--only", action="append", default=[], choices=["step", *POINTS])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--point", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        print(json.dumps(obey(*options.point)))
        return
    points = {
        "step": "quickstart: 16 prompts x 8, 16 demonstrations",
        **{name: each[0] for name, each in POINTS.items()},
    }
    print("| point | off ms | on ms | times as fast | memory, times less | tokens, times fewer |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, what in points.items():
        if options.only and name not in options.only:
            continue
        found: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
        for _ in range(1 if options.quick else options.repeats):
            for on in (False, True):
                found[on].append(spawn(name, on=on, quick=options.quick))
        print("\n".join(lines(name, what, found)), flush=True)


if __name__ == "__main__":
    main()
