"""Numbers that a policy gives beside log-probs: one linear layer each.

    v[b, t] = w . h[b, t - shift] + c      where position t has a token that was predicted, else 0      unit `token`
    v[b] = w . h[b, lengths[b] - 1] + c                                                                 unit `sequence`

h are the hidden states of the main head of stream 0, `shift` how far ahead that head predicts. w and c begin as zeros:
every value is 0 until a loss moves it, whatever the seed. Products and sums are taken in float32 (float64 for float64
states), under autocast and from bfloat16 weights too.
"""

from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavalign.engine.models.fused_logprobs import accumulator
from wavalign.plugins.scalars import ScalarHead


@final
class ScalarLayer(nn.Module):
    """The layer of one scalar head."""

    def __init__(self, head: ScalarHead, hidden_size: int) -> None:
        super().__init__()
        self.head = head
        self.weight = nn.Parameter(torch.zeros(1, hidden_size))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, hidden: Tensor, lengths: Tensor, *, shift: int) -> Tensor:
        """Values [B, T] or [B] by the head's unit, with gradient, from `hidden` [B, T, H] and `lengths` [B]."""
        if self.head.detach:
            hidden = hidden.detach()
        if self.head.unit == "sequence":
            return self._values(hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1])
        positions = hidden.shape[1]
        early = min(shift, positions)
        values = functional.pad(self._values(hidden[:, : positions - early]), (early, 0))
        place = torch.arange(positions, device=hidden.device)
        return torch.where((place >= shift) & (place < lengths[:, None]), values, 0.0)

    def _values(self, states: Tensor) -> Tensor:
        """Values [...] of `states` [..., H]."""
        dtype = accumulator(states.dtype)
        with torch.autocast(states.device.type, enabled=False):
            # A copy: the backward pass would otherwise keep a view of a parameter whose data may be taken away.
            weight = self.weight.to(dtype, copy=True)
            return (states.to(dtype) @ weight.t())[..., 0] + self.bias.to(dtype)


@final
class ScalarHeads(nn.Module):
    """Layers by name; the layer of head NAME is the submodule `NAME_head`, as a head may have the name of a method."""

    def __init__(self, heads: Sequence[ScalarHead], hidden_size: int | None) -> None:
        """Raise ValueError for a name used twice and for heads without a `hidden_size`."""
        super().__init__()
        names = [head.name for head in heads]
        if len(set(names)) < len(names):
            raise ValueError(f"two scalar heads have one name: {', '.join(names)}")
        if heads and not hidden_size:
            raise ValueError("scalar heads need the width of the hidden states that they read")
        for head in heads:
            self.add_module(f"{head.name}_head", ScalarLayer(head, hidden_size or 0))

    def __len__(self) -> int:
        return len(self._modules)

    def layers(self) -> Iterator[ScalarLayer]:
        """In the order that they were asked for."""
        for layer in self.children():
            assert isinstance(layer, ScalarLayer)
            yield layer

    def forward(self, hidden: Tensor, lengths: Tensor, *, shift: int) -> dict[str, Tensor]:
        """Values [B, T] or [B] by the heads' names, from `hidden` [B, T, H] and `lengths` [B]."""
        return {layer.head.name: layer(hidden, lengths, shift=shift) for layer in self.layers()}
