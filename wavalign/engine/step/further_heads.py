"""Tokens predicted by heads beside the one that chose them: what multi-token-prediction (MTP) modules are trained on.

Every further head adds a stream to a micro-batch that repeats the tokens of the stream it predicts. The network reads
its own S streams and never these; scoring, masks and objective treat them like any other. With E further heads the mean
over the tokens of the added streams is the mean over heads of each head's mean:
    L = 1/E * sum over k of CE_k        Source: VITA-Audio's training loss (arXiv 2505.03739), its second term
"""

from dataclasses import replace

import torch
from torch import Tensor

from wavalign.engine.step.batches import MicroBatch
from wavalign.plugins.batch import TokenSpace


def further_heads(space: TokenSpace) -> tuple[int, ...]:
    """Heads that are no stream's main one."""
    return tuple(index for index in range(len(space.heads)) if index not in space.main_heads)


def with_further_heads(batch: MicroBatch, space: TokenSpace, heads: tuple[int, ...]) -> MicroBatch:
    """`batch` with a stream more for every one of `heads`: [B, S, T] becomes [B, S + E, T]."""
    if not heads:
        return batch
    tokens, copied = batch.tokens, [space.heads[head].stream for head in heads]
    sources = torch.tensor(heads, dtype=torch.int8, device=tokens.ids.device).view(1, -1, 1)
    added = tokens.roles[:, copied]
    wide = replace(
        tokens,
        ids=torch.cat([tokens.ids, tokens.ids[:, copied]], dim=1),
        roles=torch.cat([tokens.roles, added], dim=1),
        sources=torch.cat([tokens.sources, sources.expand_as(added)], dim=1),
    )
    support = batch.support
    if support is not None:
        support = torch.cat([support, torch.full_like(support[:, copied], -1)], dim=1)
    return replace(
        batch,
        tokens=wide,
        support=support,
        temperature=torch.cat([batch.temperature, torch.ones_like(batch.temperature[:, copied])], dim=1),
    )


def spread(weights: Tensor, space: TokenSpace, heads: tuple[int, ...], *, further: bool) -> Tensor:
    """A term's weights [B, S, T] over [B, S + E, T]: on the added streams where it is `further`, else on its own.

    Positions too early in a row for a head to predict get no weight.
    """
    if not heads:
        return weights
    added = weights[:, [space.heads[head].stream for head in heads]]
    if not further:
        return torch.cat([weights, torch.zeros_like(added)], dim=1)
    shifts = torch.tensor([space.heads[head].shift for head in heads], device=weights.device).view(1, -1, 1)
    early = torch.arange(weights.shape[2], device=weights.device) < shifts
    return torch.cat([torch.zeros_like(weights), added.masked_fill(early, 0.0)], dim=1)
