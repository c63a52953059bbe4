"""Weights and optimiser states by parameter, whole or in stretches: what any backend on any number of ranks can read.

Every file is safetensors. `weights/NAME` is a weight as it is trained (the float32 master where there is one) or a
frozen weight or buffer as it is held; `exp_avg/NAME`, `exp_avg_sq/NAME` and `step/NAME` are AdamW's. A tensor that is
only a stretch of a parameter, in the order of its elements, has its first element and the parameter's shape in the
file's metadata. Who reads takes what it needs of whichever files hold it: no step in between, and nothing is rounded.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from wavalign.errors import CheckpointError

FILES = "training*.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""Of AdamW, as long as the weight."""
_STEP = "step"
_PLACES, _EXTRA = "stretches", "optimizer"
"""Keys of a file's metadata."""


@final
@dataclass(frozen=True, slots=True)
class Stretch:
    """What a rank holds of a trained weight and of the optimiser's states of it."""

    name: str
    shape: Sequence[int]
    """Of the whole weight."""
    start: int
    """The stretch's first element in it."""
    master: Tensor
    """The stretch [N], or the whole weight [*] in its shape; float32, a view of what is updated."""
    flat: Tensor
    """What the optimiser has its states by; may hold many stretches."""
    offset: int = 0
    """The stretch's first element in `flat`."""

    def of(self, state: Tensor) -> Tensor:
        """This stretch of a state [*] that is shaped as `flat`; a view, shaped as `master`."""
        if state.shape == self.master.shape:
            return state
        return state.view(-1).narrow(0, self.offset, self.master.numel())


@final
@dataclass(slots=True)
class Holding:
    """What one rank writes of a checkpoint: views until `copied`."""

    file: str
    """Its name; nothing is written where there are no tensors."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    places: dict[str, tuple[int, list[int]]] = field(default_factory=dict)
    """By key the first element and the whole shape, of those that are stretches."""
    extra: dict[str, float] = field(default_factory=dict)
    """Numbers beside them, e.g. those of a loss scaler."""

    def add(self, stretches: Iterable[Stretch], states: Mapping[Tensor, Mapping[str, Any]]) -> None:
        """Take in stretches with the optimiser's `states` [*] by tensor, which are empty before the first update."""
        for each in stretches:
            if not each.master.numel():
                continue
            state = states.get(each.flat, {})
            own = {"weights": each.master} | {moment: each.of(state[moment]) for moment in MOMENTS if moment in state}
            whole = each.master.numel() == math.prod(each.shape)
            for kind, tensor in own.items():
                self.tensors[f"{kind}/{each.name}"] = tensor.reshape(tuple(each.shape)) if whole else tensor
                if not whole:
                    self.places[f"{kind}/{each.name}"] = (each.start, list(each.shape))
            if _STEP in state and each.start == 0:
                self.tensors[f"{_STEP}/{each.name}"] = torch.as_tensor(state[_STEP], dtype=torch.float32).clone()

    def copied(self, into: dict[str, Tensor]) -> "Holding":
        """The same in host memory, apart from what is trained on; `into` keeps the copies [*], to be used again."""
        for key in [key for key in into if key not in self.tensors]:
            del into[key]
        for key, tensor in self.tensors.items():
            kept = into.get(key)
            if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
                into[key] = kept = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            kept.copy_(tensor.detach(), non_blocking=tensor.is_cuda)
        if any(tensor.is_cuda for tensor in self.tensors.values()):
            torch.cuda.synchronize()
        return Holding(self.file, dict(into), dict(self.places), dict(self.extra))

    def write(self, folder: Path) -> None:
        """Write the file."""
        if not self.tensors:
            return
        metadata = {_PLACES: json.dumps(self.places)} | ({_EXTRA: json.dumps(self.extra)} if self.extra else {})
        save_file({key: each.detach().contiguous() for key, each in self.tensors.items()}, folder / self.file, metadata)


@final
@dataclass(frozen=True, slots=True)
class _Part:
    """Where a stretch of a tensor lies."""

    file: Any
    start: int
    size: int


@final
class StoredState:
    """The training state of a checkpoint, read by whoever wants which part of it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        """Open all files; they are closed with `stack`. Raises CheckpointError where there is none."""
        self._where = str(folder / FILES)
        self._parts: dict[str, list[_Part]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.extra: dict[str, float] = {}
        """Numbers that were written beside the tensors."""
        paths = sorted(folder.glob(FILES))
        if not paths:
            raise CheckpointError(f"{folder} holds no training state")
        for path in paths:
            file = stack.enter_context(safe_open(path, framework="pt"))
            metadata = file.metadata() or {}
            self.extra |= json.loads(metadata.get(_EXTRA, "{}"))
            places = json.loads(metadata.get(_PLACES, "{}"))
            for key in file.keys():  # noqa: SIM118 - it is no mapping
                size = math.prod(held := file.get_slice(key).get_shape())
                start, shape = places.get(key, (0, held))
                self._parts.setdefault(key, []).append(_Part(file, start, size))
                self._shapes[key] = tuple(shape)

    def check(self, names: Iterable[str]) -> None:
        """Raise CheckpointError unless it holds these weights and no others."""
        wanted = set(names)
        unknown = {key for key in self._parts if key.split("/", 1)[1] not in wanted}
        missing = {f"weights/{name}" for name in wanted} - self._parts.keys()
        if unknown or missing:
            raise CheckpointError(f"{self._where} is of another model: {min(unknown | missing)} does not match")

    def has(self, kind: str, name: str) -> bool:
        """Whether it holds this of a parameter."""
        return f"{kind}/{name}" in self._parts

    def read(self, kind: str, name: str, start: int = 0, count: int | None = None) -> Tensor:
        """Elements [N] of what it holds: `count` from `start` on, all that follow without a `count`."""
        key = f"{kind}/{name}"
        total = math.prod(self._shapes[key])
        end = total if count is None else start + count
        found, reached = [], start
        for part in sorted(self._parts[key], key=lambda part: part.start):
            first, last = max(reached, part.start), min(end, part.start + part.size)
            if first == reached and first < last:
                found.append(_elements(part.file, key, first - part.start, last - part.start))
                reached = last
        if reached != end:
            raise CheckpointError(f"{self._where} lacks elements {reached} to {end} of {key}")
        return torch.cat(found) if found else torch.empty(0)

    def fill(self, stretches: Sequence[Stretch], optimizer: torch.optim.Optimizer) -> None:
        """Give `stretches` their weights, and the optimiser the states of what it updates them by.

        Raises CheckpointError where one tensor of the optimiser's would need different numbers of updates.
        """
        by_flat: dict[Tensor, list[Stretch]] = {}
        for each in stretches:
            each.master.copy_(self._like("weights", each))
            by_flat.setdefault(each.flat, []).append(each)
        for flat, held in by_flat.items():
            steps = {float(self.read(_STEP, each.name)) for each in held if self.has(_STEP, each.name)}
            if len(steps) > 1:
                raise CheckpointError(f"{self._where} has weights of {sorted(steps)} updates that are updated as one")
            if not steps:
                optimizer.state.pop(flat, None)
                continue
            moments = {moment: torch.zeros_like(flat, memory_format=torch.preserve_format) for moment in MOMENTS}
            for each in held:
                for moment, state in moments.items():
                    if self.has(moment, each.name):
                        each.of(state).copy_(self._like(moment, each))
            counter = torch.tensor(steps.pop(), dtype=torch.float32)
            on_device = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
            optimizer.state[flat] = {_STEP: counter.to(flat.device) if on_device else counter, **moments}

    def _like(self, kind: str, stretch: Stretch) -> Tensor:
        """What it holds of a stretch, shaped as its master [*]."""
        held = stretch.master
        return self.read(kind, stretch.name, stretch.start, held.numel()).view(held.shape)

    def restore(self, name: str, held: Tensor, start: int = 0) -> None:
        """Give a frozen weight or buffer, or a stretch [N] of one, its values.

        One that is held more precisely than it was stored stays as it is where it rounds to what was stored: the stage
        began from the same.
        """
        stored = self.read("weights", name, start, held.numel()).view(held.shape).to(held.device)
        if stored.dtype != held.dtype and held.to(stored.dtype).equal(stored):
            return
        held.copy_(stored)


def load_weights(policy: nn.Module, folder: Path) -> None:
    """Give a whole network the weights and lasting buffers of a checkpoint, whoever wrote it, and nothing else of it.

    Raises CheckpointError where it lacks one of them.
    """
    with ExitStack() as stack, torch.no_grad():
        stored = StoredState(folder, stack)
        lasting = policy.state_dict(keep_vars=True)
        buffers = [(name, buffer) for name, buffer in policy.named_buffers() if name in lasting]
        for name, tensor in (*policy.named_parameters(), *buffers):
            if not stored.has("weights", name):
                raise CheckpointError(f"{folder / FILES} is of another model: it has no {name}")
            if tensor.requires_grad:
                tensor.copy_(stored.read("weights", name).view(tensor.shape))
            else:
                stored.restore(name, tensor)


def _elements(file: Any, key: str, first: int, last: int) -> Tensor:
    """Elements [N] of a tensor, `first` to `last` (not included), reading no more rows of it than hold them."""
    piece = file.get_slice(key)
    shape = piece.get_shape()
    row = math.prod(shape[1:])
    if not shape or not row:
        return file.get_tensor(key).reshape(-1)[first:last]  # type: ignore[no-any-return]
    top = first // row
    rows: Tensor = piece[top : -(-last // row)]
    return rows.reshape(-1)[first - top * row : last - top * row]


def whole_stretches(named: Mapping[str, nn.Parameter]) -> Iterator[Stretch]:
    """Of weights that are whole here and updated one by one; those that are not trained are left out."""
    for name, parameter in named.items():
        if parameter.requires_grad:
            yield Stretch(name, parameter.shape, 0, parameter.data, parameter)
