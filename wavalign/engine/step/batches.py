"""Rollouts and demonstrations as the rows of one forward."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from wavalign.engine.feeding.feeds import Encoder
from wavalign.plugins.batch import (
    Dialogue,
    Rollout,
    RolloutGroup,
    TokenBatch,
    TokenSequence,
    TokenSpace,
    collate,
    concatenate,
)


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One row to learn from."""

    tokens: TokenSequence
    """Prompt and answer."""
    place: tuple[int, int] | None
    """(p, g) of a rollout among this rank's groups; None for a demonstration."""
    old_logprobs: Tensor | None = None
    """[S, T] behaviour log-probs, 0 in the prompt."""
    support: Tensor | None = None
    """[S, T, K] kept ids, -1 in the prompt; None when nothing was cut."""


@final
@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows collated: what one forward sees."""

    rows: tuple[Row, ...]
    tokens: TokenBatch
    old_logprobs: Tensor
    """[B, S, T] float32."""
    support: Tensor | None
    """[B, S, T, K] int64."""
    temperature: Tensor
    """[B, S]: the streams' own for rollouts, 1 for demonstrations."""
    is_rollout: Tensor
    """Bool [B]."""


def rollout_rows(groups: Sequence[RolloutGroup], space: TokenSpace) -> list[Row]:
    """Every rollout behind its prompt."""
    return [
        _rollout_row(group.prompt, rollout, (p, g), space)
        for p, group in enumerate(groups)
        for g, rollout in enumerate(group.rollouts)
    ]


def demonstration_rows(dialogues: Sequence[Dialogue], encoder: Encoder, space: TokenSpace) -> list[Row]:
    """Every demonstration behind its prompt."""
    return [Row(concatenate(encoder.prompt(each), encoder.target(each), space), None) for each in dialogues]


def micro_batches(
    rows: Sequence[Row], size: int, *, space: TokenSpace, temperatures: Sequence[float], device: torch.device
) -> list[MicroBatch]:
    """Cut rows into batches of at most `size`, rows of similar length together; no result depends on the cut.

    `temperatures` [S] are those rollouts were sampled at.
    """
    ordered = sorted(rows, key=lambda row: row.tokens.length) if size < len(rows) else list(rows)
    cuts = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return [_micro_batch(cut, space=space, temperatures=temperatures, device=device) for cut in cuts]


def _rollout_row(prompt: TokenSequence, rollout: Rollout, place: tuple[int, int], space: TokenSpace) -> Row:
    streams, before = prompt.ids.shape
    support = None
    if rollout.support is not None:
        blank = torch.full((streams, before, rollout.support.shape[2]), -1, dtype=rollout.support.dtype)
        support = torch.cat([blank, rollout.support.cpu()], dim=1)
    old = torch.cat([torch.zeros(streams, before), rollout.logprobs.float().cpu()], dim=1)
    return Row(concatenate(prompt, rollout.completion, space), place, old, support)


def _micro_batch(
    rows: Sequence[Row], *, space: TokenSpace, temperatures: Sequence[float], device: torch.device
) -> MicroBatch:
    tokens = collate([row.tokens for row in rows], space)
    old = torch.zeros(tokens.ids.shape)
    widths = [row.support.shape[2] for row in rows if row.support is not None]
    support = torch.full((*tokens.ids.shape, max(widths)), -1, dtype=torch.int64) if widths else None
    for index, row in enumerate(rows):
        if row.old_logprobs is not None:
            old[index, :, : row.tokens.length] = row.old_logprobs
        if row.support is not None and support is not None:
            support[index, :, : row.tokens.length, : row.support.shape[2]] = row.support
    is_rollout = torch.tensor([row.place is not None for row in rows])
    temperature = torch.where(is_rollout[:, None], torch.tensor(temperatures), 1.0)
    return MicroBatch(
        rows=tuple(rows),
        tokens=tokens.to(device),
        old_logprobs=old.to(device),
        support=None if support is None else support.to(device),
        temperature=temperature.to(device),
        is_rollout=is_rollout.to(device),
    )
