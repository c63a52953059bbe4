"""PyTorch alone: AdamW on every rank over gradients summed in flat buckets.

Master weights, gradients and optimiser states are float32. With precision `bf16` or `fp16` the network runs under
autocast: matrix products in half precision from the float32 weights, norms and log-probs in float32. A second copy of
the weights in half precision would need less memory in the forward pass but lets small updates vanish wherever it is
trained itself; those who need the memory have the DeepSpeed backend.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import final

import torch
from torch import Tensor, nn

from wavalign.engine.backends.base import (
    AdamSettings,
    Backend,
    PolicyOutput,
    Precision,
    Ranks,
    autocast,
    beside,
    finite_norm,
    parameter_groups,
)
from wavalign.engine.backends.loss_scale import LossScale
from wavalign.engine.backends.training_state import Holding, StoredState, whole_stretches
from wavalign.plugins.api import Policy
from wavalign.plugins.batch import TokenBatch

BUCKET = 25_000_000
"""Gradient elements summed over ranks at once: 100 MB."""
_FILE = "training.safetensors"


@final
class PlainBackend(Backend):
    """One copy of everything per rank."""

    saves_alone = True

    def __init__(
        self, module: nn.Module, *, policy: Policy, optimizer: AdamSettings, precision: Precision, ranks: Ranks
    ) -> None:
        """Train `module`, whose forward pass scores `policy`; trainable weights become float32 on the ranks' device."""
        super().__init__()
        self._module, self._policy, self._ranks, self._precision = module.to(ranks.device), policy, ranks, precision
        self._max_norm = optimizer.max_grad_norm
        self._heads = beside(module, policy)
        named = [*policy.named_parameters(), *self._heads.items()]
        self._trainable = {name: parameter for name, parameter in named if parameter.requires_grad}
        for parameter in self._trainable.values():
            parameter.data = parameter.data.float()
        for tensor in self._weights().values():
            ranks.broadcast_(tensor)
        self._scale = LossScale(ranks.device) if precision == "fp16" else None
        self._optimizer = torch.optim.AdamW(
            parameter_groups(self._trainable.values(), optimizer.weight_decay),
            betas=optimizer.betas,
            eps=optimizer.epsilon,
            fused=True,  # one pass over weight, gradient and moments
        )

    @property
    def policy(self) -> Policy:
        return self._policy

    def forward(
        self, batch: TokenBatch, select: Tensor, *, temperature: float | Tensor, support: Tensor | None = None
    ) -> PolicyOutput:
        with autocast(self._ranks.device, self._precision):
            return PolicyOutput(*self._module(batch, select, temperature=temperature, support=support))

    def _backward(self, loss: Tensor, *, first: bool, last: bool) -> None:
        (loss if self._scale is None else self._scale.scaled(loss)).backward()
        if last:
            self._sum_gradients()

    def _step(self, learning_rate: float) -> float:
        scale = self.loss_scale
        for parameter in self._trainable.values():
            _gradient(parameter)
        if self._scale is not None:
            self._scale.unscale(self._optimizer)
        norms = [torch.linalg.vector_norm(_gradient(p)) for p in self._trainable.values()]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        try:
            value = finite_norm(float(norm), scale)
            factor = self._max_norm / (norm + 1e-6)
            if factor < 1:
                for parameter in self._trainable.values():
                    _gradient(parameter).mul_(factor)
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate
            self._optimizer.step()
        finally:
            self._optimizer.zero_grad(set_to_none=True)
        return value

    @property
    def loss_scale(self) -> float | None:
        return None if self._scale is None else self._scale.value

    @property
    def beside(self) -> Mapping[str, Tensor]:
        return {name: parameter.data for name, parameter in self._heads.items()}

    def full_parameters(self) -> AbstractContextManager[None]:
        return autocast(self._ranks.device, self._precision)

    def holding(self) -> Holding:
        """All of it on rank 0, nothing on the others: all ranks hold the same."""
        holding = Holding(_FILE)
        if self._ranks.rank == 0:
            holding.tensors |= {f"weights/{name}": tensor for name, tensor in self._weights().items()}
            holding.add(whole_stretches(self._trainable), self._optimizer.state)
            holding.extra |= {} if self._scale is None else self._scale.numbers()
        return holding

    def _restore(self, stored: StoredState) -> None:
        weights = self._weights()
        stored.check(weights)
        stored.fill(list(whole_stretches(self._trainable)), self._optimizer)
        for name, tensor in weights.items():
            if name not in self._trainable:
                stored.restore(name, tensor)
        if self._scale is not None:
            self._scale.take(stored.extra)

    def _parts(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self._trainable.items():
            yield name, parameter.data

    def _weights(self) -> dict[str, Tensor]:
        """Every weight and lasting buffer [*] once, by name; tied ones under their first name."""
        named = [*self._policy.named_parameters(), *self._heads.items()]
        weights, lasting = {name: parameter.data for name, parameter in named}, self._policy.state_dict()
        return weights | {name: buffer for name, buffer in self._policy.named_buffers() if name in lasting}

    def _sum_gradients(self) -> None:
        """Make every gradient the sum over ranks, one flat bucket at a time."""
        if self._ranks.size == 1:
            return
        bucket: list[Tensor] = []
        for parameter in self._trainable.values():
            bucket.append(_gradient(parameter))
            if sum(gradient.numel() for gradient in bucket) >= BUCKET:
                self._sum_bucket(bucket)
                bucket = []
        self._sum_bucket(bucket)

    def _sum_bucket(self, gradients: list[Tensor]) -> None:
        """Replace gradients of any shapes by their sums over ranks, in one flat tensor [N]."""
        if not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        self._ranks.sum_(flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _gradient(parameter: nn.Parameter) -> Tensor:
    """The gradient [*], shaped as `parameter`; zeros where no loss reached it, so that all ranks step alike."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
