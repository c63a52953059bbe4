"""Where the time of a sampling call goes, and what the machine needs at least for its arithmetic.

    python benchmarks/sampler_profile.py [--network T|S] [--vocabulary N] [--rows N ...] [--new N] [--repeats N]
                                         [--compiled]

By part: the fastest of some calls, each part without those inside it. The floor: the products of every layer and of the
head, attention over the keys and values at half of the new tokens, and the prompts' products, each alone over the same
weights in the order of a step, so that caches hold what they hold in a step.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.generate import Contest
from wavalign.plugins.architectures.caching import PaddedSlots
from wavalign.plugins.architectures.fused_layers import FusedLayers
from wavalign.plugins.architectures.vita_audio.decoding import VitaDecodingState
from wavalign.plugins.samplers.batch import Batch, StreamDrawer
from wavalign.plugins.samplers.heads import HeadProjections
from wavalign.plugins.samplers.kv_cache import Call, KvCache
from wavalign.plugins.samplers.transcript import Transcript

PROMPT = 48
PARTS: list[tuple[Any, str, str]] = [
    (Call, "state", "prompts"),
    (VitaDecodingState, "fuse", "joining projections"),
    (VitaDecodingState, "settle", "making room"),
    (FusedLayers, "attend", "layers"),
    (PaddedSlots, "inputs", "positions and masks"),
    (FusedLayers, "norm", "last norm"),
    (VitaDecodingState, "hidden", "embedding"),
    (HeadProjections, "logits", "head"),
    (StreamDrawer, "draw", "drawing"),
    (VitaDecodingState, "take", "layout"),
    (Transcript, "write", "transcript"),
    (Transcript, "close", "transcript"),
    (Batch, "step", "loop"),
    (Batch, "advance", "loop"),
    (Batch, "live", "loop"),
    (Transcript, "groups", "rollouts"),
    (KvCache, "sample", "call"),
]


class Parts:
    """Seconds by part, each without the parts that it calls."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._inside: list[float] = []
        for owner, name, part in PARTS:
            setattr(owner, name, self._timed(getattr(owner, name), part))

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            self._inside.append(0.0)
            try:
                return function(*given, **named)
            finally:
                whole = time.perf_counter() - began
                self.seconds[part] += whole - self._inside.pop()
                if self._inside:
                    self._inside[-1] += whole

        return timed


def fastest(call: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of some calls."""
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return min(found)


def floors(contest: Contest, rows: int, new: int, repeats: int) -> dict[str, float]:
    """Seconds a token of what cannot be left out, part by part."""
    config, layers = contest.model.config, contest.model.model.layers
    kept, groups = config.num_key_value_heads, config.num_attention_heads // config.num_key_value_heads
    size, wide = config.hidden_size // config.num_attention_heads, config.intermediate_size
    matrices = [
        [torch.cat([each.self_attn.q_proj.weight, each.self_attn.k_proj.weight, each.self_attn.v_proj.weight]),
         each.self_attn.o_proj.weight, torch.cat([each.mlp.gate_proj.weight, each.mlp.up_proj.weight]),
         each.mlp.down_proj.weight] for each in layers
    ]  # fmt: skip
    head = contest.policy.head_weight(0)
    head = head.t().contiguous() if head.numel() >= 1 << 20 else head.t()
    caches = torch.zeros(len(layers), rows, 2, kept, PROMPT + new // 2, size)
    query = torch.zeros(rows, kept, groups, size)

    def products(states: Tensor, narrow: Tensor) -> None:
        for matrix in matrices:
            for weight in matrix:
                torch.mm(narrow if weight.shape[1] == wide else states, weight.t())

    def attention() -> None:
        for cache in caches:
            functional.scaled_dot_product_attention(query, cache[:, 0], cache[:, 1])

    states, narrow = torch.randn(rows, config.hidden_size), torch.randn(rows, wide)
    many = torch.randn(rows * PROMPT, config.hidden_size), torch.randn(rows * PROMPT, wide)
    room = torch.empty(rows, head.shape[1])
    return {
        "layers, products": fastest(lambda: products(states, narrow), repeats),
        "layers, attention": fastest(attention, repeats),
        "head": fastest(lambda: torch.mm(states, head, out=room), repeats),
        "prompts, products": fastest(lambda: products(*many), 3) / new,
    }


def compiled(contest: Contest, rows: int, repeats: int) -> str:
    """What `torch.compile` makes of one MLP at a step, its own time counted."""
    states = torch.randn(rows, 1, contest.model.config.hidden_size)
    layer = contest.model.model.layers[0].mlp
    plain = fastest(lambda: layer(states), repeats)
    made = torch.compile(layer)
    began = time.perf_counter()
    made(states)
    first = time.perf_counter() - began
    share = fastest(lambda: made(states), repeats) / plain
    return f"torch.compile of one MLP: {first:.1f} s once, then {share:.2f} of its time"


def report(contest: Contest, parts: Parts, rows: int, options: argparse.Namespace) -> None:
    """Print one table."""
    prompts, best = contest.prompts(rows, PROMPT), Counter[str]()
    for turn in range(options.repeats + 1):
        parts.seconds.clear()
        contest.ours(prompts, options.new)
        if turn and (not best or parts.seconds.total() < best.total()):
            best = Counter(parts.seconds)
    floor = floors(contest, rows, options.new, 20)
    total, least = best.total() / options.new, sum(floor.values())
    theirs = fastest(lambda: contest.generate(prompts, options.new), options.repeats) / options.new
    print(f"\n## {options.network}, vocabulary {options.vocabulary:,}, {rows} rows\n")
    print(f"ours {1e6 * total:,.0f} us a token of all rows, generate {1e6 * theirs:,.0f} ({theirs / total:.2f})")
    print(
        f"floor {1e6 * least:,.0f} us: ours takes {total / least:.2f} of it, generate at the floor would be beaten ",
        end="",
    )
    print(f"{theirs / least:.2f} times\n\n| part | us a token | share |\n|---|---:|---:|")
    for part, seconds in best.most_common():
        print(f"| {part} | {1e6 * seconds / options.new:,.0f} | {seconds / best.total():.0%} |")
    print("\n| floor | us a token |\n|---|---:|")
    for part, seconds in floor.items():
        print(f"| {part} | {1e6 * seconds:,.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--network", default="S")
    parser.add_argument("--vocabulary", type=int, default=2_048)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compiled", action="store_true", help="also try torch.compile")
    options = parser.parse_args()
    torch.set_num_threads(1)
    contest, parts = Contest(options.network, options.vocabulary, device="cpu", dtype=torch.float32), Parts()
    with torch.inference_mode():
        for rows in options.rows:
            report(contest, parts, rows, options)
            if options.compiled:
                print("\n" + compiled(contest, rows, 200))


if __name__ == "__main__":
    main()
