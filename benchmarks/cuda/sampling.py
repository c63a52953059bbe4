"""Rows about sampling: the same ids on every path, the right frequencies, tokens a second beside the bound."""

import gc
from collections.abc import Iterator
from functools import partial
from typing import final

import torch
from torch import Tensor

from benchmarks.cuda.rows import Row, Setting
from benchmarks.generate import LARGE_VOCABULARY, Contest, Point
from wavalign.plugins.api import SamplingOptions
from wavalign.plugins.samplers.kv_cache import KvCache, KvCacheParams

BATCHES = (1, 15, 16, 17)
"""Rows whose buckets differ: one, one less than a power of two, it, and one more."""
DRAWS = 16384
"""Answers to one prompt whose first ids are counted."""
UNLIKELY = 5.0
"""Standard deviations of the chi-square statistic beyond which frequencies are not those of the log-probs."""
FEWEST = 10
"""Common ids that make the statistic one of frequencies."""
PROMPT = 48
FLAT = 1.5
"""Temperature at which many ids are common: the random weights are sure of one."""


@final
class Sides:
    """One network, sampled with captured graphs and without, and by transformers."""

    def __init__(self, setting: Setting, network: str, vocabulary: int) -> None:
        self.network, self.vocabulary = network, vocabulary
        self.contest = Contest(network, vocabulary, device=str(setting.device), dtype=setting.dtype)
        self._captured, self._eager = (KvCache(KvCacheParams(cuda_graphs=graphs)) for graphs in (True, False))

    def ours(self, rows: int, new: int, *, greedy: bool = False, captured: bool = True, prompt: int = PROMPT) -> Tensor:
        """Ids [B, new]; a sampler lives on from call to call, as in a run."""
        options = SamplingOptions(1, 0.0 if greedy else 1.0, 0, 1.0, new)
        sampler, contest = self._captured if captured else self._eager, self.contest
        generator = torch.Generator().manual_seed(0)
        prompts = contest.prompts(rows, prompt)
        groups = sampler.sample(contest.policy, contest.architecture, prompts, options, generator)
        return torch.stack([group.rollouts[0].completion.ids[0] for group in groups])

    def generate(self, rows: int, new: int, *, greedy: bool = False) -> Tensor:
        """Ids [B, new] by transformers."""
        return self.contest.generate(self.contest.prompts(rows, PROMPT), new, greedy=greedy)

    def bound(self, setting: Setting, rows: int, new: int) -> float:
        """Tokens a second at which weights, keys and values come from memory."""
        point = Point(self.network, self.vocabulary, rows, PROMPT, new)
        return rows / (self.contest.traffic(point) / setting.bandwidth)


def same_ids(setting: Setting) -> Iterator[Row]:
    """Greedy ids with captured graphs, a second time, without graphs, and of transformers' generate."""
    sides = Sides(setting, *(("T", 2_048) if setting.small else ("0.5b", 32_000)))
    for count in BATCHES:
        captured, again = (sides.ours(count, 24, greedy=True) for _ in range(2))
        eager = sides.ours(count, 24, greedy=True, captured=False)
        theirs = sides.generate(count, 24, greedy=True)
        same, repeated, equal = (int((captured == other).all(dim=1).sum()) for other in (eager, again, theirs))
        value = f"as uncaptured {same}, in a second call {repeated}, as generate {equal}"
        yield Row(f"greedy ids of {count} rows", value, "uncaptured and again: all", same == repeated == count)


def frequencies(setting: Setting) -> Iterator[Row]:
    """How often ids are drawn, against the log-probs recorded for them."""
    contest = Contest("T", 2_048, device=str(setting.device), dtype=setting.dtype)
    draws = 4096 if setting.small else DRAWS
    for name, top_k, top_p in (("whole", 0, 1.0), ("top-k 20", 20, 1.0), ("top-p 0.9", 0, 0.9)):
        options = SamplingOptions(draws, FLAT, top_k, top_p, 1)
        sampler, generator = KvCache(KvCacheParams(max_rows=draws)), torch.Generator().manual_seed(1)
        group = sampler.sample(contest.policy, contest.architecture, contest.prompts(1, PROMPT), options, generator)[0]
        ids = torch.tensor([int(rollout.completion.ids[0, 0]) for rollout in group.rollouts])
        logprobs = torch.tensor([float(rollout.logprobs[0, 0]) for rollout in group.rollouts])
        common, apart = _apart(ids, logprobs)
        value = f"{common} common ids, chi-square {apart:.1f} deviations from its mean"
        aim = f"< {UNLIKELY:.0f}, over {FEWEST} ids or more"
        yield Row(f"frequencies against exp(log-prob), {name}", value, aim, apart < UNLIKELY and common >= FEWEST)


def _apart(ids: Tensor, logprobs: Tensor) -> tuple[int, float]:
    """Ids expected at least 5 times, and by how many deviations the chi-square statistic over them is off its mean."""
    seen = torch.bincount(ids).double()
    said = torch.zeros_like(seen)
    said[ids] = logprobs.double().exp() * len(ids)
    often = said >= 5
    common = int(often.sum())
    excess = float(((seen - said)[often] ** 2 / said[often]).sum()) - common
    return common, abs(excess) / max(1.0, (2 * common) ** 0.5)


def rates(setting: Setting) -> Iterator[Row]:
    """Tokens a second with graphs, without, of generate, and the share of what memory traffic allows."""
    if setting.small:
        yield from _rates(setting, "T", 2_048, (4, 8), 0.0)
        return
    yield from _rates(setting, "1.5b", LARGE_VOCABULARY, (64, 8, 256), 0.5)
    yield from _rates(setting, "7b", LARGE_VOCABULARY, (64,), 0.6)


def _rates(setting: Setting, network: str, vocabulary: int, batches: tuple[int, ...], share: float) -> Iterator[Row]:
    sides = Sides(setting, network, vocabulary)
    for rows in batches:
        yield _rate(setting, sides, rows, share if rows == 64 else 0.0)
    del sides
    gc.collect()
    if setting.device.type == "cuda":
        torch.cuda.empty_cache()


def _rate(setting: Setting, sides: Sides, rows: int, share: float) -> Row:
    new = 16 if setting.small else 48
    first = setting.seconds(lambda: sides.ours(rows, new), 1)
    ours = rows * new / setting.seconds(lambda: sides.ours(rows, new))
    eager = rows * new / setting.seconds(lambda: sides.ours(rows, new, captured=False), 2)
    theirs = rows * new / setting.seconds(lambda: sides.generate(rows, new), 2)
    bound = sides.bound(setting, rows, new)
    value = (
        f"{ours:,.0f} tokens/s (first call {first:.1f} s), uncaptured {eager:,.0f}, generate {theirs:,.0f}: "
        f"x {ours / theirs:.1f}; bound {bound:,.0f}: {ours / bound:.0%}"
    )
    holds = ours / bound >= share and ours / theirs >= 10 if share else None
    aim = f">= {share:.0%} of the bound, x 10" if share else ""
    return Row(f"sampler, {sides.network}, {rows} rows", value, aim, holds)


def steadiness(setting: Setting) -> Iterator[Row]:
    """Whether single calls take much longer than others, where the rows and the lengths of prompts change."""
    sides = Sides(setting, *(("T", 2_048) if setting.small else ("0.5b", 32_000)))
    sizes = torch.randint(3, 40, (30,), generator=torch.Generator().manual_seed(0)).tolist()
    times = [setting.seconds(partial(sides.ours, rows, 16, prompt=24 + rows), 1) for rows in sizes]
    later = sorted(times[10:])
    median, worst = later[len(later) // 2], later[-1]
    value = f"calls 11 to 30: median {median * 1e3:.0f} ms, longest {worst * 1e3:.0f} ms"
    yield Row("single calls of changing sizes", value, "longest < 3 medians", worst < 3 * median)
