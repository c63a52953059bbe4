"""Weights that DeepSpeed's ZeRO 3 divides among ranks."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn

from wavalign.engine.backends.base import Placement, Ranks
from wavalign.engine.backends.deepspeed_library import filter_warnings, hushed, join_group, load_library
from wavalign.plugins.batch import TokenBatch

_MAX_HEADS = 127
"""A head's index in a batch is an int8."""


def placement(config: Mapping[str, Any], ranks: Ranks) -> Placement:
    """Where the weights of a network to be trained by `config` are read to: whole, or at stage 3 in parts."""
    dtype = dtype_of(config)
    if config["zero_optimization"]["stage"] == 3:
        return PartitionedPlacement(config, ranks, dtype)
    return Placement(ranks.device, dtype=dtype)


@final
class PartitionedPlacement(Placement):
    """Every rank keeps its part of each weight; whole is but the one that is being read."""

    def __init__(self, config: Mapping[str, Any], ranks: Ranks, dtype: torch.dtype) -> None:
        super().__init__(ranks.device, dtype=dtype)
        self.among = ranks
        self._config = copy.deepcopy(dict(config))
        join_group(ranks)
        with hushed():
            self._library = load_library(ranks.device)
            self._library.init_distributed(dist_init_required=False)  # it takes part in the group there is
        filter_warnings()

    def whole(self, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[None]:
        gathered: AbstractContextManager[None] = self._library.zero.GatheredParameters(list(parameters))
        return gathered

    def shape(self, parameter: nn.Parameter) -> tuple[int, ...]:
        return shape_of(parameter)

    def part(self, parameter: nn.Parameter) -> Tensor:
        return part_of(parameter)

    def settle(self, parameter: nn.Parameter) -> None:
        holder = nn.Module()  # the library partitions modules
        holder.register_parameter("weight", parameter)
        with hushed():
            self._library.zero.Init(module=holder, config_dict_or_path=self._config, dtype=self.dtype)


@final
class PartitionedScorer:
    """A frozen network that scores while each rank holds a part of it; every rank calls every method alike."""

    def __init__(
        self, module: nn.Module, *, heads: Sequence[nn.Parameter], config: Mapping[str, Any], ranks: Ranks
    ) -> None:
        """Score by `module`, whose weights were settled; `config` is that of the network trained beside it.

        `heads` are as those of the backend.
        """
        self._ranks = ranks
        with hushed(), ranks.joint("its building"):
            library = load_library(ranks.device)
            for head in heads:
                library.zero.register_external_parameter(module, head)
            self._engine, *_ = library.initialize(model=module, config=_frozen(config), dist_init_required=False)
        filter_warnings()

    def score(
        self, batch: TokenBatch, select: Tensor, *, temperature: float | Tensor, support: Tensor | None = None
    ) -> Tensor:
        """Log-probs [B, S, T] of the positions in `select` (bool [B, S, T]), without gradient."""
        heads = heads_of_all(self._ranks, batch, select)
        with torch.no_grad(), self._ranks.joint("a forward pass"):
            found = self._engine(batch, select, temperature=temperature, support=support, heads=heads)
        scored: Tensor = found[0]
        return scored


def _frozen(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a network that is only scored with, beside one that is trained by `config`."""
    found = copy.deepcopy({name: value for name, value in config.items() if name != "optimizer"})
    found["zero_optimization"].pop("offload_optimizer", None)
    return found


def heads_of_all(ranks: Ranks, batch: TokenBatch, select: Tensor) -> frozenset[int]:
    """Heads that any rank's `select` (bool [B, S, T]) comes from: gathering a parameter takes every rank."""
    used = torch.zeros(_MAX_HEADS + 1, dtype=torch.int64, device=ranks.device)
    sources, chosen = (each.flatten().to(used.device, torch.int64) for each in (batch.sources, select))
    used.index_add_(0, sources, chosen)
    ranks.sum_(used)
    return frozenset(head for head, count in enumerate(used.tolist()) if count)


def dtype_of(config: Mapping[str, Any]) -> torch.dtype:
    """What weights are held in."""
    if config["fp16"]["enabled"]:
        return torch.float16
    return torch.bfloat16 if config["bf16"]["enabled"] else torch.float32


def shape_of(parameter: Tensor) -> tuple[int, ...]:
    """Of the whole parameter [*]; what is left in the place of a partitioned one has one dimension."""
    shape: Sequence[int] = getattr(parameter, "ds_shape", parameter.shape)
    return tuple(shape)


def dimensions_of(parameter: nn.Parameter) -> int:
    """Of the whole parameter."""
    return len(shape_of(parameter))


def part_of(parameter: nn.Parameter) -> Tensor:
    """What this rank keeps of a parameter: the whole [any shape], or its part [N]."""
    part = getattr(parameter, "ds_tensor", None)
    return parameter.data if part is None else part.data


@contextmanager
def exchanged(named: Mapping[str, nn.Parameter], kept: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the parameters `named` are made of the parts [N] in `kept` in place of their own."""
    found = [(named[name], part) for name, part in kept.items()]
    own = [part_of(parameter).clone() for parameter, _ in found]

    def put(parts: Sequence[Tensor]) -> None:
        """Let the parameters be made of `parts` [N]."""
        for (parameter, _), part in zip(found, parts, strict=True):
            if parameter.data.numel():  # a small one, which else stays whole
                parameter.partition()  # type: ignore[attr-defined]
            part_of(parameter).copy_(part)

    put([part for _, part in found])
    try:
        yield
    finally:
        put(own)
