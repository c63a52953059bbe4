"""Floating-point operations that a token costs by the model's formula, whatever computes it; docs/scaling.md says more.

Forward and backward a token takes 6 operations for every number of the matrices that it meets, 4 where the matrix is
frozen (no gradient of its own), and 12 H for every layer and every token of its row: attention, of which causality
takes nothing off (Chowdhery et al., arXiv 2204.02311, appendix B). A head counts for the tokens that it scores. Tables
of embeddings multiply nothing; encoders and projectors meet frames of sound and are left out, as are the reference's
and the sampler's passes, and layers that `gradient_checkpointing` computes again.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch

from wavalign.engine.compile.adapter import count_weights
from wavalign.plugins.api import Architecture
from wavalign.schema.model import ModelSection

TRAINED, FROZEN = 6, 4
"""Operations a number and token, forward and backward."""
ATTENTION = 12
"""Operations a layer, a number of the hidden width, a token, and a token of its row."""
BEYOND = ("audio_branch", "mtp")
"""Groups of parameters that a token passes through where another head than the first scores one."""
ELSEWHERE = ("embed", "encoder", "projector")
"""Groups of parameters that multiply no token's states."""
_LAYER = re.compile(r".*?layers\.\d+\.")


@final
@dataclass(frozen=True, slots=True)
class TokenFlops:
    """Operations of one token, forward and backward."""

    trunk: float
    """In every micro-batch."""
    attention: float
    """The same, times the tokens of its row."""
    beyond: float
    """More where another head than the first scores a token of the micro-batch."""
    attention_beyond: float
    """The same, times the tokens of its row."""
    heads: tuple[float, ...]
    """Where a head scores it, by head."""

    def of(self, *, tokens: int, span: float, scored: Sequence[int]) -> float:
        """Of a micro-batch of `tokens` in rows of `span` tokens, of which each head scores so many."""
        own = self.trunk + self.attention * span
        if any(scored[1:]):
            own += self.beyond + self.attention_beyond * span
        return tokens * own + sum(each * count for each, count in zip(self.heads, scored, strict=True))


def token_flops(architecture: Architecture, model: ModelSection, *, critic: bool = False) -> TokenFlops:
    """Of a model and what a stage trains of it; nothing is allocated. `critic`: a second trunk is trained with it."""
    with torch.device("meta"):
        policy = architecture.empty_policy()
    heads = [policy.head_weight(index) for index in range(len(architecture.tokens.heads))]
    projections = {id(weight) for weight in heads}
    factors, sizes, layers = _factors(architecture, model), dict[str, float](), dict[str, set[str]]()
    rates: dict[int, int] = {}
    for name, parameter in policy.named_parameters():
        group = architecture.parameter_group(name)
        rates[id(parameter)] = factors.get(group, TRAINED)
        if (found := _LAYER.match(name)) is not None:
            layers.setdefault(group, set()).add(found.group())
        if id(parameter) not in projections and parameter.dim() > 1:
            sizes[group] = sizes.get(group, 0.0) + rates[id(parameter)] * parameter.numel()
    beyond = sum(size for group, size in sizes.items() if group in BEYOND)
    trunk = sum(size for group, size in sizes.items() if group not in (*BEYOND, *ELSEWHERE))
    dimensions = architecture.dimensions()
    further = sum(len(found) for group, found in layers.items() if group in BEYOND)
    each = float(ATTENTION * dimensions.hidden)
    own, networks = dimensions.layers - further, 2 if critic else 1
    added = TRAINED * count_weights(model, architecture).added
    return TokenFlops(
        trunk=networks * trunk + added,
        attention=networks * own * each,
        beyond=beyond,
        attention_beyond=further * each,
        heads=tuple(float(rates[id(weight)] * weight.numel()) for weight in heads),
    )


def _factors(architecture: Architecture, model: ModelSection) -> Mapping[str, int]:
    """Operations a number and token by group of parameters, where not all are trained."""
    groups = {architecture.parameter_group(name) for name in architecture.parameter_shapes()}
    frozen = frozenset(model.freeze or ()) if model.adapter is None else groups - {*model.adapter.also_train}
    return dict.fromkeys(frozen, FROZEN)
