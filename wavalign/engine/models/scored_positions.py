"""The selected positions of a batch, sorted by the head that scores them.

Where a device computes, whoever asks it for a number waits for all it was told before. So what must be known here - how
many positions each head scores, which of them were cut, whether all can be scored - is read back once per micro-batch.

Letters: N positions, B sequences, S streams, T tokens, K kept ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from wavalign.engine.models.fused_logprobs import Query, accumulator
from wavalign.plugins.batch import HeadSpec, TokenBatch

OUTSIDE = "a target lies outside the support it was sampled from"
COLD = "temperature must be above 0 to score tokens"


@final
@dataclass(frozen=True, slots=True)
class ScoredPositions:
    """Positions by head, of each head those whose distribution was cut first, otherwise in the order of the batch."""

    place: tuple[Tensor, Tensor, Tensor]
    """Sequence, stream and token, [N] each."""
    origin: Tensor
    """[N]: the token whose hidden state predicts it."""
    targets: Tensor
    """[N] int64."""
    temperature: float | Tensor
    """One for all or [N]."""
    support: Tensor | None
    """[N, K]; None where nothing was cut."""
    counts: tuple[tuple[int, int], ...]
    """Of every head, how many positions were cut and how many were not."""

    @property
    def heads(self) -> frozenset[int]:
        """Those that score any."""
        return frozenset(head for head, counts in enumerate(self.counts) if any(counts))

    def parts(self, head: int) -> list[tuple[slice, bool]]:
        """Positions of `head` that are scored in one go, and whether they were cut; an empty one where it has none."""
        start = sum(map(sum, self.counts[:head]))
        cut, whole = self.counts[head]
        parts = [(slice(start, start + cut), True), (slice(start + cut, start + cut + whole), False)]
        return [(rows, is_cut) for rows, is_cut in parts if rows.stop > rows.start] or [(slice(0, 0), False)]

    def query(self, rows: slice, *, cut: bool, dtype: torch.dtype) -> Query:
        """What is asked of `rows`, whose hidden states are in `dtype`."""
        temperature = self.temperature
        part = temperature[rows] if isinstance(temperature, Tensor) else temperature
        targets = self.targets[rows]
        return Query(
            targets, inverse(part, targets, dtype), self.support[rows] if cut and self.support is not None else None
        )


def find_positions(
    batch: TokenBatch,
    select: Tensor,
    heads: Sequence[HeadSpec],
    *,
    temperature: float | Tensor,
    support: Tensor | None,
) -> ScoredPositions:
    """The positions of `select` (bool [B, S, T]) as `heads` score them.

    `temperature` is one for all, [B] or [B, S]; `support` [B, S, T, K]. Raises ValueError for a temperature that is not
    positive, a target outside its support, and a position too early in a row for its head to predict.
    """
    b, s, t = select.nonzero(as_tuple=True)
    sources, targets = batch.sources[b, s, t].long(), batch.ids[b, s, t]
    kept = None if support is None else support[b, s, t]
    cut = torch.zeros_like(b, dtype=torch.bool) if kept is None else (kept >= 0).any(dim=1)
    outside = cut if kept is None else cut & ~(kept == targets[:, None]).any(dim=1)
    if isinstance(temperature, Tensor):
        temperature = temperature[b] if temperature.dim() == 1 else temperature[b, s]
    cold = temperature <= 0 if isinstance(temperature, Tensor) else torch.full_like(cut, temperature <= 0)

    number = torch.arange(len(heads), device=b.device)
    origin = t - ((sources[:, None] == number) * torch.tensor([head.shift for head in heads], device=b.device)).sum(
        dim=1
    )
    group = 2 * sources + (~cut).long()
    member = group[:, None] == torch.arange(2 * len(heads), device=b.device)
    early = member & (origin < 0)[:, None]
    facts = torch.cat([member.sum(dim=0), early.sum(dim=0), torch.stack([outside.sum(), cold.sum()])]).tolist()
    counts = _checked(facts, heads, len(b))

    order = group.argsort(stable=True)
    return ScoredPositions(
        place=(b[order], s[order], t[order]),
        origin=origin[order],
        targets=targets[order],
        temperature=temperature[order] if isinstance(temperature, Tensor) else temperature,
        support=None if kept is None else kept[order],
        counts=counts,
    )


def _checked(facts: list[int], heads: Sequence[HeadSpec], positions: int) -> tuple[tuple[int, int], ...]:
    """Counts of cut and whole positions by head, from what was read back; raises ValueError for what cannot be."""
    groups = 2 * len(heads)
    counts, early, (outside, cold) = facts[:groups], facts[groups : 2 * groups], facts[2 * groups :]
    if sum(counts) != positions:
        raise ValueError(f"{positions - sum(counts)} tokens have a source that is none of the {len(heads)} heads")
    for group in (group for group, count in enumerate(early) if count):
        raise ValueError(f"head {heads[group // 2].name!r} cannot predict a position this early in a row")
    if cold:
        raise ValueError(COLD)
    if outside:
        raise ValueError(OUTSIDE)
    return tuple(zip(counts[::2], counts[1::2], strict=True))


def inverse(temperature: float | Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor | None:
    """1 / temperature [N] of `targets` [N] in the precision of log-probs of `dtype`; None where it is 1 for all."""
    if not isinstance(temperature, Tensor):
        if temperature == 1:
            return None
        temperature = torch.full(targets.shape, temperature, dtype=torch.float64)
    return temperature.reciprocal().to(targets.device, accumulator(dtype))
