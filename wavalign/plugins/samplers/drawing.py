"""Drawing one token a row, each row from a stream of its own, and what it takes to know its probability."""

import hashlib
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

FIRST_WIDTH = 64
"""How many of the likeliest ids nucleus sampling looks at first."""


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


def row_uniforms(seed: int, name: str, shape: tuple[int, int]) -> Tensor:
    """Uniform numbers in [0, 1), float64, that depend on `seed` and `name` alone."""
    digest = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=16).digest()
    stream = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    return torch.from_numpy(stream.random(shape))


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

    @property
    def cuts(self) -> bool:
        """Whether some ids cannot be drawn."""
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1)

    def draw(self, logits: Tensor, uniforms: Tensor) -> Draw:
        """Draw from `logits` [B, V] float32 with `uniforms` [B]."""
        if self.temperature == 0:
            return Draw(logits.argmax(dim=-1), logits.new_zeros(len(logits)), None)
        if not self.cuts:
            probabilities = torch.softmax(logits / self.temperature, dim=-1)
            chosen, logprobs = _invert(probabilities, uniforms)
            return Draw(chosen, logprobs, None)
        ids, probabilities = self._likeliest(logits / self.temperature)
        chosen, logprobs = _invert(probabilities, uniforms)
        kept = torch.where(probabilities > 0, ids, -1).to(torch.int32)
        return Draw(ids.gather(1, chosen[:, None])[:, 0], logprobs, kept)

    def _likeliest(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Ids [B, K] by falling probability, and their unnormalised probabilities, 0 behind the cut.

        Nucleus: an id stays while the probability before it is below `top_p` of what top-k left.
        """
        vocabulary = logits.shape[-1]
        width = min(self.top_k or vocabulary, vocabulary)
        if self.top_p >= 1:
            values, ids = logits.topk(width, dim=-1)
            return ids, torch.softmax(values, dim=-1)
        # Almost always a few ids hold `top_p` of the mass: look wider only where they do not.
        whole = None if self.top_k else torch.logsumexp(logits, dim=-1, keepdim=True)
        looked = min(width, FIRST_WIDTH) if whole is not None else width
        while True:
            values, ids = logits.topk(looked, dim=-1)
            total = torch.logsumexp(values, dim=-1, keepdim=True) if whole is None else whole
            probabilities = (values - total).exp()
            mass = probabilities.cumsum(dim=-1)
            if looked == width or bool((mass[:, -1] >= self.top_p).all()):
                break
            looked = min(width, 4 * looked)
        kept = mass - probabilities < self.top_p
        used = int(kept.sum(dim=-1).max())
        return ids[:, :used], torch.where(kept, probabilities, 0)[:, :used]


def penalised(logits: Tensor, recent: Tensor, penalty: float) -> Tensor:
    """`logits` [B, V] in which the `recent` ids [B, N] are less likely, however often each of them comes."""
    said = logits.gather(1, recent)
    return logits.scatter(1, recent, torch.where(said < 0, said * penalty, said / penalty))


def _invert(probabilities: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Columns [B] drawn by the inverse of the cumulative `probabilities` [B, K], and their log-probs.

    Summed in float64: over a large vocabulary float32 would move the borders between ids.
    """
    cumulative = probabilities.to(torch.float64).cumsum(dim=-1)
    total = cumulative[:, -1:]
    columns = torch.searchsorted(cumulative, uniforms[:, None] * total, right=True)
    columns = columns.clamp(max=probabilities.shape[-1] - 1)
    chosen = probabilities.gather(1, columns)
    return columns[:, 0], (chosen.to(torch.float64) / total).log()[:, 0].to(torch.float32)
