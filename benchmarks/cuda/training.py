"""Rows about learning: forward and backward of an update at full size, beside the product that the device can do."""

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from benchmarks.cuda.rows import Row, Setting
from benchmarks.generate import LARGE_VOCABULARY, Contest
from wavalign.engine.models.packed_rows import packed
from wavalign.engine.models.scored_policy import ScoredPolicy
from wavalign.plugins.batch import TokenBatch
from wavalign.plugins.packing import UNPACKED, PackingOptions

SHARE = 0.45
"""Of the measured rate of products, that forward and backward over packed rows are to reach."""
PAIRS = 100_000.0
"""Pairs of tokens that cost as much as a token: large, so that all is packed that can be."""


@final
@dataclass(frozen=True, slots=True)
class Shape:
    """Rows of one update."""

    prompts: int
    group: int
    prompt: int
    answer: int
    """Tokens of the longest answer; others are down to a half."""

    def batch(self, vocabulary: int) -> tuple[TokenBatch, Tensor, list[int]]:
        """Rows [B, 1, T], which positions are scored, bool [B, 1, T], and the group of every row."""
        draw = torch.Generator().manual_seed(0)
        rows, longest = self.prompts * self.group, self.prompt + self.answer
        ids = torch.randint(5, vocabulary, (rows, 1, longest), generator=draw)
        ids[:, :, : self.prompt] = ids[:: self.group, :, : self.prompt].repeat_interleave(self.group, dim=0)
        lengths = torch.randint(longest - self.answer // 2, longest + 1, (rows,), generator=draw)
        lengths[0] = longest
        places = torch.arange(longest)
        select = ((places >= self.prompt) & (places < lengths[:, None]))[:, None]
        none = torch.zeros_like(ids, dtype=torch.int8)
        groups = [row // self.group for row in range(rows)]
        return TokenBatch(ids, none, none, lengths), select, groups


def rates(setting: Setting) -> Iterator[Row]:
    """Rows of different lengths without groups, packed; then groups, whose prompts are shared."""
    network, vocabulary = ("T", 2_048) if setting.small else ("1.5b", LARGE_VOCABULARY)
    contest = Contest(network, vocabulary, device=str(setting.device), dtype=setting.dtype)
    contest.model = None
    policy = contest.policy.inner
    policy.train()
    scored = ScoredPolicy(policy, contest.architecture.tokens)
    ragged = Shape(8, 1, 32, 32) if setting.small else Shape(8, 1, 256, 1024)
    grouped = Shape(2, 4, 32, 16) if setting.small else Shape(2, 8, 768, 256)
    what = f"forward + backward, {network}"
    yield _rate(setting, scored, ragged, f"{what}, {ragged.prompts} ragged rows", 0.0 if setting.small else SHARE)
    yield _rate(setting, scored, grouped, f"{what}, {grouped.prompts} groups of {grouped.group}", 0.0)
    del scored, policy, contest
    gc.collect()
    if setting.device.type == "cuda":
        torch.cuda.empty_cache()


def _rate(setting: Setting, scored: ScoredPolicy, shape: Shape, what: str, aim: float) -> Row:
    dense, select, groups = shape.batch(scored.space.vocabulary_size)
    seconds, tokens = {}, {}
    for name, options in (("dense", UNPACKED), ("packed", PackingOptions(share=True, pack=True, pairs=PAIRS))):
        batch = packed(dense, groups, options)
        tokens[name] = dense.ids[:, 0].numel() if batch.packing is None else batch.packing.tokens
        moved, chosen = batch.to(setting.device), select.to(setting.device)

        def learn(batch: TokenBatch = moved, chosen: Tensor = chosen) -> None:
            scored.zero_grad(set_to_none=True)
            logprobs, _ = scored(batch, chosen, temperature=1.0)
            logprobs.sum().backward()

        learn()
        seconds[name] = setting.seconds(learn, 2)
        scored.zero_grad(set_to_none=True)
    work = operations(scored, shape, int(select.sum()), tokens["packed"])
    share = work / seconds["packed"] / setting.matrix_rate
    packs, denses = (f"{tokens[name]:,} tokens {seconds[name]:.3f} s" for name in ("packed", "dense"))
    faster = seconds["dense"] / seconds["packed"]
    value = f"packed {packs}, dense {denses}: x {faster:.2f}; {share:.0%} of the product's rate"
    return Row(what, value, f">= {aim:.0%}" if aim else "", share >= aim if aim else None)


def operations(scored: ScoredPolicy, shape: Shape, positions: int, tokens: int) -> float:
    """Floating-point operations of a forward and a backward pass; what is computed twice to save memory counts once.

    6 for every weight of the layers and token, 6 V H for a scored position, 12 H for a layer and pair of tokens that
    attend to one another.
    """
    policy, head = scored.policy, scored.policy.head_weight(0)
    layers = {name: each.numel() for name, each in policy.named_parameters() if ".layers." in name}
    depth = len({name.split(".layers.")[1].split(".")[0] for name in layers})
    pairs = tokens * (shape.prompt + shape.answer) / 2
    width, vocabulary = head.shape[1], head.shape[0]
    return float(6 * sum(layers.values()) * tokens + 6 * vocabulary * width * positions + 12 * width * depth * pairs)
