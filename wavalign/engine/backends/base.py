"""What the engine asks of a training backend: one optimiser over one scored policy."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol, final

import torch
from torch import Tensor, nn

from wavalign.engine.backends.loss_scale import LEAST
from wavalign.engine.backends.training_state import Holding, StoredState
from wavalign.errors import NonFiniteError
from wavalign.plugins.api import Policy
from wavalign.plugins.batch import TokenBatch

Precision = Literal["float32", "bf16", "fp16"]
DTYPES: Mapping[Precision, torch.dtype] = {
    "float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16
}  # fmt: skip
"""What is computed in."""


@final
class GradientOverflowError(Exception):
    """Scaled gradients of fp16 were too large; no weight has moved, and the next scale is smaller."""


class Ranks(Protocol):
    """What a backend asks of the processes it runs in."""

    @property
    def rank(self) -> int:
        """This process, from 0."""

    @property
    def size(self) -> int:
        """Number of processes."""

    @property
    def device(self) -> torch.device:
        """Where this process computes."""

    def sum_(self, tensor: Tensor) -> None:
        """Replace `tensor` [*], of any shape, by its sum over ranks."""

    def broadcast_(self, tensor: Tensor) -> None:
        """Replace `tensor` [*], of any shape, by that of rank 0."""

    def barrier(self) -> None:
        """Go on when every rank has come here."""

    def joint(self, doing: str) -> AbstractContextManager[None]:
        """Inside, a library speaks to the other ranks by itself; RankLostError where it loses one."""


@final
@dataclass(frozen=True, slots=True)
class AdamSettings:
    """AdamW and the clipping before it; the learning rate comes with every step."""

    betas: tuple[float, float]
    epsilon: float
    weight_decay: float
    """Of matrices; vectors (norms, biases) are not decayed."""
    max_grad_norm: float


class Placement:
    """Where a network's weights come to lie while they are read, and how precise they are.

    This one keeps every weight whole on each rank. A backend that wants them otherwise brings its own.
    """

    among: Ranks | None = None
    """Ranks that weights are divided among; None where each keeps all of them."""

    def __init__(self, device: torch.device, *, dtype: torch.dtype = torch.float32) -> None:
        self.device, self.dtype = device, dtype

    def settle(self, parameter: nn.Parameter) -> None:
        """Take a parameter [any shape] whose weights are in it; every rank settles all in the same order."""
        return

    def whole(self, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[None]:
        """Inside, `parameters` that were settled are whole on this rank; every rank enters alike."""
        return nullcontext()

    def shape(self, parameter: nn.Parameter) -> tuple[int, ...]:
        """Of the whole parameter, settled or not."""
        return tuple(parameter.shape)

    def part(self, parameter: nn.Parameter) -> Tensor:
        """What this rank keeps of a parameter: all of it [any shape], or a part [N]."""
        return parameter.data


@final
@dataclass(frozen=True, slots=True)
class PolicyOutput:
    """What one forward pass gives, with gradient where it is enabled."""

    logprobs: Tensor
    """[B, S, T] float32, 0 where nothing was selected."""
    scalars: Mapping[str, Tensor]
    """By the scalar heads' names, [B, T] or [B] float32, 0 at positions that no token could be predicted at."""


class Backend(ABC):
    """Forward, backward and update of one policy over all ranks.

    An update is `begin_update`, as many `forward` and `backward` as it was told, and `step`; every rank walks alike.
    Gradients after its last `backward` are the sum over micro-batches and ranks of the losses' gradients, divided by
    `divisor`; `step/objective.py` multiplies by it, so that every backend updates by the same numbers.
    A parameter that no loss of the update reaches has gradient 0; one that requires no gradient is left alone.
    """

    divisor: float = 1.0
    """Of the current update: 1 for a backend that only sums; micro-batches x ranks for one that averages."""

    _planned = 0
    """Micro-batches of the current update; 0 between updates."""
    _done = 0
    """Of these, how many went backward."""

    def __init__(self) -> None:
        self._copies: dict[str, Tensor] = {}
        """Host memory of snapshots, to be used again."""

    saves_alone: ClassVar[bool] = False
    """Whether the first rank can `save` without the others."""

    @property
    def loss_scale(self) -> float | None:
        """By which the next loss is multiplied in fp16; None where none is scaled."""
        return None

    @property
    @abstractmethod
    def policy(self) -> Policy:
        """The live network, e.g. for sampling inside `full_parameters()`."""

    @abstractmethod
    def forward(
        self, batch: TokenBatch, select: Tensor, *, temperature: float | Tensor, support: Tensor | None = None
    ) -> PolicyOutput:
        """Log-probs of the positions in `select` (bool [B, S, T]), and every scalar head's values.

        `temperature` is one for all, [B] or [B, S]; `support` [B, S, T, K] int32 ids that a distribution was cut to,
        padded by -1. Every rank calls it as often, with gradient or without.
        """

    def score(
        self, batch: TokenBatch, select: Tensor, *, temperature: float | Tensor, support: Tensor | None = None
    ) -> Tensor:
        """Log-probs [B, S, T] of `evaluate`."""
        return self.evaluate(batch, select, temperature=temperature, support=support).logprobs

    def evaluate(
        self, batch: TokenBatch, select: Tensor, *, temperature: float | Tensor, support: Tensor | None = None
    ) -> PolicyOutput:
        """What `forward` gives, [B, S, T] and scalars, to the last bit, without gradient; any number between updates.

        The network stays in its mode: who wants an adapter's dropout as in the update seeds both alike.
        """
        with torch.no_grad():
            return self.forward(batch, select, temperature=temperature, support=support)

    def begin_update(self, num_micro_batches: int) -> None:
        """Start an update of so many micro-batches: equal on all ranks, free from update to update.

        A rank with fewer rows than that runs micro-batches that select nothing. Raises RuntimeError while an update
        is under way and ValueError for less than one micro-batch.
        """
        if num_micro_batches < 1:
            raise ValueError(f"an update takes at least one micro-batch, not {num_micro_batches}")
        if self._planned:
            raise RuntimeError("an update is under way: finish it with step()")
        self._planned, self._done = num_micro_batches, 0
        self._begin()

    @final
    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` [] of the update's next micro-batch.

        Raises RuntimeError beyond those that `begin_update` was told.
        """
        if self._done >= self._planned:
            raise RuntimeError(f"begin_update was told {self._planned} micro-batches: there is none to go backward for")
        self._done += 1
        self._backward(loss, first=self._done == 1, last=self._done == self._planned)

    @final
    def step(self, learning_rate: float) -> float:
        """Clip, update, clear gradients; gives the global gradient norm before clipping.

        Raises NonFiniteError, leaving the weights as they are, when that norm is not finite, GradientOverflowError
        where a loss scale may be the reason, and RuntimeError where micro-batches of the update are missing. The update
        is over either way.
        """
        planned, done, self._planned, self._done = self._planned, self._done, 0, 0
        if not planned or done < planned:
            raise RuntimeError(
                f"{done} of the update's {planned} micro-batches went backward: its gradients are partial"
            )
        return self._step(learning_rate)

    def _begin(self) -> None:
        """Learn of a new update; `_planned` is its number of micro-batches."""
        return

    @abstractmethod
    def _backward(self, loss: Tensor, *, first: bool, last: bool) -> None:
        """Add the gradients of `loss` [], the `first` or `last` micro-batch of its update."""

    @abstractmethod
    def _step(self, learning_rate: float) -> float:
        """As `step`, with every gradient there."""

    @abstractmethod
    def full_parameters(self) -> AbstractContextManager[None]:
        """Inside, every parameter of `policy` is whole on this rank and computes in the training's precision."""

    def whole(self, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[None]:
        """Inside, `parameters` of the policy are whole on this rank; every rank enters alike, between updates."""
        return self.full_parameters()

    def exchanged(self, kept: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Inside, parameters that lie in parts have on this rank that of `kept` [N], by name.

        Every rank enters alike, between updates.
        """
        raise NotImplementedError("weights of this backend lie whole on every rank")

    @property
    @abstractmethod
    def beside(self) -> Mapping[str, Tensor]:
        """What is trained beside the policy, by its name in the module; whole [*] inside `full_parameters()`."""

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every lasting tensor [*] of `policy` by name, one whole at a time; every rank walks along to the end.

        The next one may take the place of the last: copy what shall stay.
        """
        yield from self.policy.state_dict().items()

    def broken(self) -> str:
        """Name of a trained weight that is NaN or infinite in this rank's part of it, empty when there is none."""
        parts = {name: part for name, part in self._parts() if part.numel()}
        if not parts:
            return ""
        # The least and the largest of a weight with a NaN are NaN; on a CPU they take a tenth of the time of a norm.
        ends = torch.stack([end.float() for part in parts.values() for end in torch.aminmax(part)])
        bad = (~torch.isfinite(ends)).view(-1, 2).any(dim=1).tolist()
        return next((name for name, is_bad in zip(parts, bad, strict=True) if is_bad), "")

    @abstractmethod
    def _parts(self) -> Iterator[tuple[str, Tensor]]:
        """What this rank holds of every weight that is trained, by name: whole [*], or [N] elements of a part."""

    @abstractmethod
    def holding(self) -> Holding:
        """What this rank writes of weights and optimiser states, as it is now: views, to be used before they change."""

    @final
    def save(self, folder: Path) -> None:
        """Write weights and optimiser states under `folder`; every rank calls it, and none waits for another."""
        self.holding().write(folder)

    @final
    def snapshot(self) -> Callable[[Path], None]:
        """Copy to host memory what `save` would write; gives what writes it, at any time before the next snapshot."""
        return self.holding().copied(self._copies).write

    @final
    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, on however many ranks and by whichever backend: weights and moments exactly.

        Every rank calls it. Raises CheckpointError where it is of another model, or not whole.
        """
        with ExitStack() as stack:
            self._restore(StoredState(folder, stack))

    @abstractmethod
    def _restore(self, stored: StoredState) -> None:
        """Take weights and optimiser states from `stored`."""

    def close(self) -> None:
        """Let go of what the backend holds; called once, the policy is not used afterwards."""
        return


def beside(module: nn.Module, policy: Policy) -> dict[str, nn.Parameter]:
    """Parameters of `module` that are not `policy`'s, by their names in it; they train and never leave with it.

    Raises ValueError where `policy` has a parameter of that name.
    """
    named = dict(policy.named_parameters())
    own = {id(parameter) for parameter in named.values()}
    found = {name: each for name, each in module.named_parameters() if id(each) not in own}
    for name in found.keys() & named.keys():
        raise ValueError(f"the network has a parameter {name} of its own")
    return found


def parameter_groups(
    parameters: Iterable[nn.Parameter], weight_decay: float, dimensions: Callable[[nn.Parameter], int] = Tensor.dim
) -> list[dict[str, object]]:
    """Trainable matrices with `weight_decay`, trainable vectors without; a group that would be empty is left out.

    `dimensions` tells them apart where a parameter's own shape does not, as that of a partitioned one.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    matrices = [parameter for parameter in trainable if dimensions(parameter) >= 2]
    vectors = [parameter for parameter in trainable if dimensions(parameter) < 2]
    groups: list[dict[str, object]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Compute in half precision from float32 weights where `precision` says so."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


def finite_norm(norm: float, scale: float | None = None) -> float:
    """`norm` itself; when it is NaN or infinite, raises GradientOverflowError if the loss `scale` can shrink, or else
    NonFiniteError."""
    if not math.isfinite(norm):
        if scale is not None and scale > LEAST:
            raise GradientOverflowError
        raise NonFiniteError(
            f"the gradient norm is {norm}; the weights were not updated",
            hint="lower the learning rate, or look at the step's losses in metrics.jsonl",
        )
    return norm
