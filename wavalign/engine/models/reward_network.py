"""A network that learned to score answers: hidden states of rows to a reward by facet.

    r = v of the row                            a head whose unit is the sequence: read off its last position
    r = mean of v_t where the mask selects t    a head whose unit is the token

It computes what the scalar heads compute in training, with the same layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from wavalign.engine.models.scalar_heads import ScalarLayer
from wavalign.plugins.api import Mask, Policy
from wavalign.plugins.batch import TokenSequence, TokenSpace, collate
from wavalign.plugins.ops import PADDED
from wavalign.plugins.scalars import ScalarHead

PREFIX = "scalar_heads."
"""What the heads' names begin with beside a policy."""


@final
@dataclass(frozen=True, slots=True)
class FacetHead:
    """One thing that is judged: the head it is read off, and the tokens that a mean is over."""

    name: str
    head: ScalarHead
    mask: Mask

    @property
    def module(self) -> str:
        """Name of the head's layer beside a policy."""
        return f"{PREFIX}{self.head.name}_head"


@final
class RewardNetwork:
    """Scores rows with a policy's network and heads beside it."""

    def __init__(
        self, policy: Policy, space: TokenSpace, facets: Sequence[FacetHead], heads: Mapping[str, Tensor]
    ) -> None:
        """`heads` are weights and biases [*] by `FacetHead.module` and their own names."""
        self.policy, self.space, self.facets = policy, space, tuple(facets)
        self._layers = [_layer(facet, heads) for facet in facets]

    def rewards(self, rows: Sequence[TokenSequence], *, size: int) -> dict[str, Tensor]:
        """Rewards [B] of `rows` by facet, float64 on the CPU, from at most `size` rows a forward."""
        training, found = self.policy.training, list[Tensor]()
        self.policy.eval()
        try:
            with torch.no_grad():
                for start in range(0, len(rows), size):
                    found.append(self._of(rows[start : start + size]))
        finally:
            self.policy.train(training)
        table = torch.cat(found, dim=1) if found else torch.zeros(len(self.facets), 0, dtype=torch.float64)
        return {facet.name: table[index] for index, facet in enumerate(self.facets)}

    def _of(self, rows: Sequence[TokenSequence]) -> Tensor:
        """Rewards [F, B] by facet of rows that go through the network together."""
        device = next(self.policy.parameters()).device
        batch = collate(rows, self.space).to(device)
        trunk = self.space.main_heads[0]
        hidden = self.policy.hidden(batch, frozenset({trunk}))[trunk]
        shift = self.space.heads[trunk].shift
        given = [layer.to(device)(hidden, batch.lengths, shift=shift) for layer in self._layers]
        values = [self._pooled(facet, each, batch.roles) for facet, each in zip(self.facets, given, strict=True)]
        return torch.stack(values).cpu().double()

    @staticmethod
    def _pooled(facet: FacetHead, values: Tensor, roles: Tensor) -> Tensor:
        """Rewards [B] of `values` [B] or [B, T] of rows with `roles` [B, S, T]."""
        if facet.head.unit == "sequence":
            return values
        chosen = (facet.mask.weights(roles.cpu()) > 0).any(dim=1, keepdim=True).to(values.device)
        return PADDED.mean(values[:, None], chosen)


def _layer(facet: FacetHead, heads: Mapping[str, Tensor]) -> ScalarLayer:
    """The layer of a facet, of `heads` [*] by their names."""
    weight, bias = (heads[f"{facet.module}.{name}"] for name in ("weight", "bias"))
    layer = ScalarLayer(facet.head, weight.shape[1])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer.requires_grad_(False)
