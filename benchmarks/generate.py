"""Tokens a second: the sampler `kv_cache`, transformers' `generate`, and prompts one by one, over the same weights.

    python benchmarks/generate.py [--quick] [--networks T S ...] [--vocabularies N ...] [--rows N ...] [--new N]
                                  [--device cpu|cuda] [--dtype float32|bf16] [--bandwidth GB/s] [--json FILE]

First whether greedy answers are the same, then the time of whole calls, prefill included, the contenders in turn.
"""

import argparse
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, Qwen2ForCausalLM

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.grpo.point import SIZES
from benchmarks.grpo.world import word_tokenizer
from wavalign.plugins.api import DecodingState, ModelSource, Policy, SamplingOptions, StaticDecodingState
from wavalign.plugins.architectures.vita import VitaAudio, VitaParams
from wavalign.plugins.architectures.vita_audio.sizes import VitaSizes
from wavalign.plugins.batch import Dialogue, Message, TokenBatch, TokenSequence
from wavalign.plugins.samplers.kv_cache import KvCache, KvCacheParams

NETWORKS: dict[str, dict[str, int]] = {
    **SIZES,
    "0.5b": {
        "num_layers": 24,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_heads": 14,
        "num_key_value_heads": 2,
    },
    "1.5b": {
        "num_layers": 28,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_heads": 12,
        "num_key_value_heads": 2,
    },
}
"""Qwen2 networks by the names of `VitaSizes`; the last two have the sizes of Qwen2.5."""
LARGE_VOCABULARY = 151_936
BANDWIDTH = {
    "H200": 4800,
    "H100 80GB HBM3": 3350,
    "H100 PCIe": 2000,
    "A100-SXM4-80GB": 2039,
    "A100-SXM4-40GB": 1555,
    "L40S": 864,
    "RTX 4090": 1008,
}
"""GB/s of memory by a part of the device's name, from the makers' data sheets."""
ALONE = 4
"""Prompts that are sampled one by one; their rate stands for all, since each costs the same."""
SPREAD = 0.1
"""Standard deviation of random weights: enough that greedy answers are not one id over and over."""
SEED, TIE = 0, 0.05
DISCLOSURE = """\
What is compared: one call from prompts (ids, all of one length) to sampled ids, at temperature 1 over the whole
vocabulary, every row for the same number of new tokens. WavAlign's call also draws each row from a stream of its own,
records behaviour log-probs, roles and source heads, and takes the answers apart into text and codes; `generate` gives
ids alone. One by one is `generate` on one prompt after the other, as research code does it, measured on up to 4 of the
prompts. Weights are the same tensors. Prompts are all different: with groups, WavAlign would run each prompt once and
`generate` once per answer. End tokens are drawn like any other id and end nothing.

The bound, where there is one, is memory traffic alone: the bytes of all weights that a step reads and of the keys and
values at half of the new tokens, over the bandwidth; it knows no prefill and no arithmetic.

Ratios above 1 are in WavAlign's favour: tokens a second, and beside it the processor's time a token, which other work
on the machine disturbs less."""


@final
@dataclass(frozen=True, slots=True)
class Point:
    """What the contenders share."""

    network: str
    vocabulary: int
    rows: int
    prompt: int
    """Tokens of each prompt."""
    new: int
    """Tokens sampled for each row."""


@final
class EndlessPolicy(Policy):
    """A policy whose answers are as long as the limit lets them be."""

    def __init__(self, inner: Policy) -> None:
        super().__init__()
        self.inner = inner

    def hidden(self, batch: TokenBatch, heads: frozenset[int]) -> dict[int, Tensor]:
        return self.inner.hidden(batch, heads)

    def head_weight(self, head: int) -> nn.Parameter:
        return self.inner.head_weight(head)

    def decode(
        self, prompts: Sequence[TokenSequence], *, group_size: int, need: Literal["text", "all"]
    ) -> DecodingState:
        state = self.inner.decode(prompts, group_size=group_size, need=need)
        assert isinstance(state, StaticDecodingState)
        state.shared["ends"].fill_(-1)
        return state


@final
class Contest:
    """One network under both of its names, and prompts for it."""

    def __init__(self, network: str, vocabulary: int, *, device: str, dtype: torch.dtype) -> None:
        sizes = VitaSizes(
            vocabulary_size=vocabulary,
            num_mtp_layers=0,
            tie_embeddings=False,
            rope_theta=1e6,
            **NETWORKS[network],  # type: ignore[arg-type]  # sizes by name
        )
        with tempfile.TemporaryDirectory(prefix="generate-") as folder:
            (Path(folder) / "config.json").write_text(json.dumps(sizes.public_config()), encoding="utf-8")
            word_tokenizer(Path(folder)).save_pretrained(folder)
            self.architecture = VitaAudio(VitaParams(), source=ModelSource(folder, None, None))
        torch.manual_seed(SEED)
        config = sizes.transformers_config()
        config.initializer_range = SPREAD
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                self.model: Any = Qwen2ForCausalLM(config)
                policy = self.architecture.empty_policy()
        finally:
            torch.set_default_dtype(before)
        policy.load_state_dict(self.model.state_dict(), assign=True)
        self.model.train(False)
        self.policy, self.device = EndlessPolicy(policy), torch.device(device)
        self.policy.train(False)

    def prompts(self, count: int, length: int) -> list[tuple[Dialogue, TokenSequence]]:
        """`count` different prompts of `length` tokens."""
        rng = random.Random(SEED)
        frame = self._prompt("p", []).length
        rows = [rng.choices(range(5, 1000), k=length - frame) for _ in range(count)]
        return [(Dialogue(str(n), ()), self._prompt(str(n), row)) for n, row in enumerate(rows)]

    def ours(self, prompts: Sequence[tuple[Dialogue, TokenSequence]], new: int, *, greedy: bool = False) -> Tensor:
        """Ids [B, new] by `kv_cache`."""
        options = SamplingOptions(1, 0.0 if greedy else 1.0, 0, 1.0, new)
        groups = KvCache(KvCacheParams()).sample(
            self.policy, self.architecture, prompts, options, torch.Generator().manual_seed(SEED)
        )
        return torch.stack([group.rollouts[0].completion.ids[0] for group in groups])

    def generate(self, prompts: Sequence[tuple[Dialogue, TokenSequence]], new: int, *, greedy: bool = False) -> Tensor:
        """Ids [B, new] by transformers."""
        ids = torch.cat([prompt.ids for _, prompt in prompts]).to(self.device)
        make: Any = GenerationConfig  # transformers leaves its constructor untyped
        how: dict[str, Any] = {"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0}
        config: Any = make(max_new_tokens=new, use_cache=True, pad_token_id=0, **how)
        with torch.inference_mode():
            found: Tensor = self.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        return found[:, ids.shape[1] :].cpu()

    def alone(self, prompts: Sequence[tuple[Dialogue, TokenSequence]], new: int) -> Tensor:
        """Ids [B, new] by transformers, a call for each prompt."""
        return torch.cat([self.generate([prompt], new) for prompt in prompts])

    def traffic(self, point: Point) -> int:
        """Bytes a step reads: every weight but the embedding once, and the keys and values of every row."""
        read = [each for name, each in self.policy.named_parameters() if "embed_tokens" not in name]
        weights = sum(each.numel() * each.element_size() for each in read)
        sizes = self.architecture.dimensions()
        width = self.policy.head_weight(0).element_size() * sizes.key_value_width * sizes.layers
        return weights + point.rows * (point.prompt + point.new // 2) * width

    def timed(self, call: Callable[[], Tensor]) -> tuple[float, float]:
        """Seconds of a call, and of the processor in it."""
        self._wait()
        began, busy = time.perf_counter(), time.process_time()
        call()
        self._wait()
        return time.perf_counter() - began, time.process_time() - busy

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _prompt(self, name: str, words: Sequence[int]) -> TokenSequence:
        text = " ".join(f"w{word}" for word in words)
        return self.architecture.encode_prompt(Dialogue(name, (Message("user", text),)), lambda _: ())


def compare(contest: Contest, point: Point, repeats: int) -> dict[str, Any]:
    """Tokens a second of every contender, and how many rows answer alike when greedy."""
    prompts = contest.prompts(point.rows, point.prompt)
    few = prompts[:ALONE]
    ours, theirs = (way(prompts, point.new, greedy=True) for way in (contest.ours, contest.generate))
    calls: dict[str, tuple[int, Callable[[], Tensor]]] = {
        "ours": (len(prompts), lambda: contest.ours(prompts, point.new)),
        "generate": (len(prompts), lambda: contest.generate(prompts, point.new)),
        "alone": (len(few), lambda: contest.alone(few, point.new)),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, (_, call) in calls.items():
            seconds[name].append(contest.timed(call))
    tokens = {name: rows * point.new for name, (rows, _) in calls.items()}
    rates = {name: tokens[name] / statistics.median(wall for wall, _ in each) for name, each in seconds.items()}
    busy = {name: statistics.median(cpu for _, cpu in each) / tokens[name] for name, each in seconds.items()}
    alike = int((ours == theirs).all(dim=1).sum())
    return {**asdict(point), "alike": alike, **rates, "cpu": busy, "seconds": seconds}


def heading(bounded: bool) -> None:
    """The table's first two lines."""
    more = " bound | of bound |" if bounded else ""
    ratios = "ours : generate | CPU : CPU | ours : one by one | CPU : CPU"
    print(f"| network | vocabulary | rows | WavAlign | generate | one by one | {ratios} |{more}")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|" + ("---:|---:|" if bounded else ""))


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    ours = row["ours"]
    text = f"| {row['network']} | {row['vocabulary']:,} | {row['rows']} "
    text += "".join(f"| {row[name]:,.0f} " for name in ("ours", "generate", "alone"))
    for name in ("generate", "alone"):
        text += f"| {ours / row[name]:.2f} | {row['cpu'][name] / row['cpu']['ours']:.2f} "
    text += "|"
    return text + (f" {row['bound']:,.0f} | {ours / row['bound']:.0%} |" if "bound" in row else "")


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every point, printed as it is known."""
    bandwidth = options.bandwidth or known_bandwidth(options.device)
    dtype = torch.float32 if options.dtype == "float32" else torch.bfloat16
    heading(bandwidth is not None)
    for network, vocabulary in itertools.product(options.networks, options.vocabularies):
        contest = Contest(network, vocabulary, device=options.device, dtype=dtype)
        for rows in options.rows:
            point = Point(network, vocabulary, rows, options.prompt, options.new)
            row = compare(contest, point, options.repeats)
            if bandwidth is not None:
                row["bound"] = rows / (contest.traffic(point) / (bandwidth * 1e9))
            print(line(row), flush=True)
            if options.dtype == "float32" and options.device == "cpu" and row["alike"] != rows:
                raise SystemExit(f"greedy answers differ in {rows - row['alike']} of {rows} rows")
            yield row


def not_won(rows: Sequence[dict[str, Any]], *, busy: bool) -> list[str]:
    """Points where another contender is as fast or faster, by the processor's time if `busy`."""
    found = []
    for row, name in itertools.product(rows, ("generate", "alone")):
        ratio = row["cpu"][name] / row["cpu"]["ours"] if busy else row["ours"] / row[name]
        if ratio < 1 + TIE:
            word = "tie" if ratio >= 1 - TIE else "LOSS"
            point = f"{row['network']}, {row['vocabulary']:,}, {row['rows']} rows"
            found.append(f"- {word}: {point}: {ratio:.2f} to {name}")
    return found


def known_bandwidth(device: str) -> int | None:
    """GB/s of the GPU's memory; None for a CPU and for a GPU that is not in the table."""
    if device != "cuda":
        return None
    name = torch.cuda.get_device_name()
    return next((each for part, each in BANDWIDTH.items() if part in name), None)


def stamp(options: argparse.Namespace) -> dict[str, Any]:
    """Where and with what this was measured."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = next((line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")), "unknown")
    git = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    found = {
        "command": " ".join(["python", *sys.argv]),
        "cpu": f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "threads": options.threads,
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "commit": git.stdout.strip(),
        "call": f"prompts of {options.prompt} tokens, {options.new} new ones, {options.dtype}, "
        f"median of {options.repeats}, {options.device}",
    }
    return {**found, "gpu": torch.cuda.get_device_name()} if options.device == "cuda" else found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="the small network, one vocabulary, short answers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    parser.add_argument("--networks", "--preset", nargs="+", choices=sorted(NETWORKS), default=["T", "S"])
    parser.add_argument("--vocabularies", nargs="+", type=int)
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--prompt", type=int, default=48)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--bandwidth", type=float, help="GB/s of memory, where the device is not known")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.vocabularies is None:
        large = any(name in options.networks for name in ("0.5b", "1.5b"))
        options.vocabularies = [LARGE_VOCABULARY] if large else [2_048, 32_000]
    if options.quick:
        options.networks, options.vocabularies, options.new = options.networks[:1], options.vocabularies[:1], 16
    return options


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    about = stamp(options)
    print("# Sampling: WavAlign, transformers' generate, one by one\n\n" + DISCLOSURE + "\n")
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    print("\n## Tokens a second\n")
    rows = list(measure(options))
    same = sum(row["alike"] for row in rows)
    print(f"\nGreedy answers of {same} of {sum(row['rows'] for row in rows)} rows are the same, token by token.")
    print("\nNot won, " + ("by time:" if options.device == "cuda" else "by processor time:"))
    print("\n".join(not_won(rows, busy=options.device == "cpu")) or "nothing of the above")
    if options.json:
        options.json.write_text(json.dumps({"stamp": about, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
