"""Rows about learning: forward and backward of a GRPO update at full size, beside the product that the device can do."""

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
    network, vocabulary = ("T", 1_000) if setting.small else ("1.5b", LARGE_VOCABULARY)
    contest = Contest(network, vocabulary, device=str(setting.device), dtype=setting.dtype)
    contest.model = None
    policy = contest.policy.inner
    policy.train()
    scored = ScoredPolicy(policy, contest.architecture.tokens)
    ragged, grouped = (Shape(8, 1, 32, 32), Shape(2, 4, 32, 16)) if setting.small else (Shape(16, 1, 256, 1024), Shape(4, 8, 768, 256))
    for name, shape, aim in ((f"{ragged.prompts} ragged rows", ragged, SHARE), (f"{grouped.prompts} groups of {grouped.group}", grouped, 0.0)):
        yield _rate(setting, scored, shape, f"forward + backward, {network}, {name}", 0.0 if setting.small else aim)
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
    value = (
        f"packed {tokens['packed']:,} tokens {seconds['packed']:.3f} s, dense {tokens['dense']:,} {seconds['dense']:.3f} s: "
        f"x {seconds['dense'] / seconds['packed']:.2f}; {share:.0%} of the product's rate"
    )
    return Row(what, value, f">= {aim:.0%}" if aim else "", share >= aim if aim else None)


def operations(scored: ScoredPolicy, shape: Shape, positions: int, tokens: int) -> float:
    """Floating-point operations of a forward and a backward pass; what is computed twice to save memory counts once.

    6 for every weight of the layers and token, 6 V H for a scored position, 12 H for a layer and pair of tokens that
    attend to one another.
    """
    policy = scored.policy
    head = policy.head_weight(0)
    layers = [each for name, each in policy.named_parameters() if ".layers." in name]
    depth = len({name.split(".layers.")[1].split(".")[0] for name, _ in policy.named_parameters() if ".layers." in name})
    longest = shape.prompt + shape.answer
    pairs = tokens * longest / 2
    return float(6 * sum(each.numel() for each in layers) * tokens + 6 * head.numel() * positions + 12 * head.shape[1] * depth * pairs)
