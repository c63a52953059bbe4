"""Logits of a policy's heads, as a sampling loop asks for them."""

from contextlib import nullcontext
from typing import final

import torch
from torch import Tensor

from wavalign.plugins.api import Buffers, Policy

LARGE = 1 << 20
"""Numbers in a head that make another layout worth a copy."""


@final
class HeadProjections:
    """Logits of a policy's heads in float32, also under autocast: scoring computes them so.

    A GPU multiplies half precision into float32 by itself; elsewhere a head of lower precision is converted once. With
    `fused` a large head is copied once to lie as [H, V] on a CPU, a faster layout for few rows. Such copies are in
    `shared`.
    """

    def __init__(self, policy: Policy, heads: int, *, fused: bool = False) -> None:
        self._policy, self.shared = policy, Buffers()
        self._names: dict[int, str] = {}
        """By head, the name of a copy."""
        self._room: Tensor | None = None
        for head in range(heads):
            weight = policy.head_weight(head).detach()
            turned = fused and weight.numel() >= LARGE
            if weight.is_cuda or not (turned or weight.dtype != torch.float32):
                continue
            self._names[head] = name = str(weight.data_ptr())
            if name not in self.shared:
                whole = weight.float().t()
                self.shared[name] = whole.contiguous() if turned else whole

    def logits(self, head: int, hidden: Tensor) -> Tensor:
        """Logits [B, V] of `hidden` [B, H], to be overwritten at will; the next call takes their place."""
        device = hidden.device.type
        name = self._names.get(head)
        weight = self._policy.head_weight(head).detach().t() if name is None else self.shared[name]
        # To enter the context costs as much as a small product.
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
            if weight.is_cuda:
                if weight.dtype == hidden.dtype and weight.dtype in (torch.bfloat16, torch.float16):
                    return torch.mm(hidden, weight, out_dtype=torch.float32)
                return torch.mm(hidden.float(), weight.float())
            return torch.mm(hidden.float(), weight, out=self._space(len(hidden), weight.shape[1]))

    def _space(self, rows: int, vocabulary: int) -> Tensor:
        """[rows, vocabulary], the same memory every time: so much of it comes slowly."""
        if self._room is None or self._room.numel() < rows * vocabulary:
            self._room = torch.empty(rows * vocabulary)
        return self._room[: rows * vocabulary].view(rows, vocabulary)
