"""Drawing one token a row, each row from a stream of its own, and what it takes to know its probability."""

import hashlib
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

FIRST_WIDTH = 64
"""How many of the likeliest ids nucleus sampling looks at first."""
NARROW, CELL = 1024, 256
"""Columns that are cumulated one by one; of wider rows, columns of a cell."""
LARGEST = 1 - 1e-12
"""Of uniform numbers: times any sum it is below that sum, so that no id of weight 0 is behind it."""


@final
@dataclass(frozen=True, slots=True)
class Draw:
    """One token a row."""

    ids: Tensor
    """[B] int64."""
    logprobs: Tensor
    """[B] float32, under the distribution that was drawn from."""
    support: Tensor | None
    """[B, K] int32 ids that could be drawn, padded by -1; None when all could."""
    short: Tensor | None = None
    """Bool [B]: rows whose kept ids are more than were looked at, so that the draw does not count."""


def row_uniforms(seed: int, name: str, shape: tuple[int, int]) -> Tensor:
    """Uniform numbers from 0 to `LARGEST`, float64, that depend on `seed` and `name` alone."""
    digest = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=16).digest()
    stream = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    return torch.from_numpy(stream.random(shape) * LARGEST)


@final
@dataclass(frozen=True, slots=True)
class Drawer:
    """A distribution over the vocabulary: temperature, then top-k, then top-p."""

    temperature: float
    """0 takes the likeliest id."""
    top_k: int
    """0 keeps every id."""
    top_p: float
    """1 keeps every id."""
    most: int = 0
    """Nucleus sampling alone looks at the so many likeliest ids and says of what that is too few; 0 looks as far as it
    must, for which it reads how far that is."""

    @property
    def width(self) -> int:
        """How many ids can be kept at most, where that is known beforehand; 0 where nothing is cut."""
        return (self.top_k or self.most) if self.cuts else 0

    @property
    def cuts(self) -> bool:
        """Whether some ids cannot be drawn."""
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1)

    def draw(self, logits: Tensor, uniforms: Tensor) -> Draw:
        """Draw from `logits` [B, V] float32, which are overwritten, with `uniforms` [B]."""
        if self.temperature == 0:
            return Draw(logits.argmax(dim=-1), logits.new_zeros(len(logits)), None)
        if not self.cuts:
            chosen, logprobs = _invert(_exponentials(logits, self.temperature), uniforms)
            return Draw(chosen, logprobs, None)
        ids, weights, short = self._likeliest(logits)
        chosen, logprobs = _invert(weights, uniforms)
        kept = ids.masked_fill(~(weights > 0), -1).to(torch.int32)
        return Draw(ids.gather(1, chosen[:, None])[:, 0], logprobs, kept, short)

    def _likeliest(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Ids [B, K] by falling probability, and their unnormalised probabilities, 0 behind the cut; who is short.

        Nucleus: an id stays while the probability before it is below `top_p` of what top-k left.
        """
        vocabulary = logits.shape[-1]
        width = min(self.top_k or vocabulary, vocabulary)
        if self.top_p >= 1:
            values, ids = logits.topk(width, dim=-1)
            return ids, _exponentials(values, self.temperature), None
        logits.div_(self.temperature)
        # Almost always a few ids hold `top_p` of the mass: look wider only where they do not.
        whole = None if self.top_k else torch.logsumexp(logits, dim=-1, keepdim=True)
        looked = min(width, self.most or FIRST_WIDTH) if whole is not None else width
        while True:
            values, ids = logits.topk(looked, dim=-1)
            total = torch.logsumexp(values, dim=-1, keepdim=True) if whole is None else whole
            probabilities = (values - total).exp()
            mass = probabilities.cumsum(dim=-1)
            if looked == width or self.most or bool((mass[:, -1] >= self.top_p).all()):
                break
            looked = min(width, 4 * looked)
        cut = ~(mass - probabilities < self.top_p)
        kept = probabilities.masked_fill(cut, 0)
        if self.most:
            return ids, kept, None if looked == width else mass[:, -1] < self.top_p
        used = int((~cut).sum(dim=-1).max())
        return ids[:, :used], kept[:, :used], None


def penalised(logits: Tensor, recent: Tensor, penalty: float) -> Tensor:
    """`logits` [B, V], overwritten: the `recent` ids [B, N] are less likely, however often each of them comes."""
    said = logits.gather(1, recent)
    return logits.scatter_(1, recent, torch.where(said < 0, said * penalty, said / penalty))


def _exponentials(logits: Tensor, temperature: float) -> Tensor:
    """exp((logits - largest) / temperature) [B, K], in place of `logits`."""
    peak = logits.amax(dim=-1, keepdim=True)
    if temperature == 1:
        return logits.sub_(peak).exp_()
    return torch.add(peak * (-1 / temperature), logits, alpha=1 / temperature, out=logits).exp_()


def _invert(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Columns [B] drawn by the inverse of the cumulative `weights` [B, K] >= 0, and their log-probs.

    Cumulated in float64: over a large vocabulary float32 would move the borders between ids. A wide row is cumulated
    over the sums of its cells, in float32 off by less than a millionth, then within the cell that was hit.
    """
    if weights.shape[1] <= NARROW:
        cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
        total = cumulative[:, -1:]
        columns = _hit(cumulative, uniforms[:, None] * total)
        chosen = weights.gather(1, columns)
    else:
        sums = _cell_sums(weights)
        cumulative = sums.cumsum(dim=-1, dtype=torch.float64)
        total = cumulative[:, -1:]
        wanted = uniforms[:, None] * total
        cells = _hit(cumulative, wanted)
        inside = _cell(weights, cells)
        rest = wanted - (cumulative - sums).gather(1, cells)
        within = inside.cumsum(dim=-1, dtype=torch.float64)
        columns = _hit(within, torch.minimum(rest, within[:, -1:] * LARGEST))  # the two sums may differ
        chosen, columns = inside.gather(1, columns), cells * CELL + columns
    return columns[:, 0], (chosen / total).log()[:, 0].to(torch.float32)


def _cell_sums(weights: Tensor) -> Tensor:
    """Sums [B, C] of `weights` [B, K] over cells of `CELL` columns, the last of which may be shorter."""
    whole = weights.shape[1] // CELL * CELL
    sums: Tensor = weights[:, :whole].unflatten(1, (-1, CELL)).sum(dim=-1)
    if whole < weights.shape[1]:
        sums = torch.cat([sums, weights[:, whole:].sum(dim=-1, keepdim=True)], dim=1)
    return sums


def _cell(weights: Tensor, cells: Tensor) -> Tensor:
    """`weights` [B, K] of one of the `cells` [B, 1] each: [B, CELL], 0 behind the last column."""
    places = torch.arange(CELL, device=weights.device) + cells * CELL
    if weights.shape[1] % CELL == 0:
        return weights.gather(1, places)
    last = weights.shape[1] - 1
    return weights.gather(1, places.clamp(max=last)).masked_fill(places > last, 0)


def _hit(cumulative: Tensor, wanted: Tensor) -> Tensor:
    """First columns [B, 1] whose `cumulative` [B, K] is above `wanted` [B, 1], the last where all are no numbers."""
    return torch.searchsorted(cumulative, wanted, right=True).clamp(max=cumulative.shape[1] - 1)
