"""The weights a network starts from: drawn at random, or read from a checkpoint straight to where they shall lie.

For a checkpoint nothing is drawn and nothing is held twice: the network is made without memory for its weights, then
each tensor gets its memory, is copied from the mapped file and is handed to the backend's `Placement`, which may keep
it whole or a part of it. What is drawn is the same for every placement; in parts where it is placed in parts
(`drawing.py`). Buffers that a network computes when it is made (rotary frequencies) are real from the start.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from wavalign.engine.backends.base import Placement
from wavalign.engine.compile.plan import StagePlan
from wavalign.engine.models.drawing import DrawnInParts
from wavalign.errors import PluginError
from wavalign.plugins.api import Architecture, Policy
from wavalign.storage.tensors import StoredTensor, Weights, check_finite, check_fit, check_types, read_checkpoint

META = torch.device("meta")


def stage_model(start: Path | None) -> Path | None:
    """The model that an earlier stage left in its folder `start`; None where it left none."""
    return start / "model" if start is not None and (start / "model").exists() else None


def checkpoint_address(stage: StagePlan, start: Path | None) -> str | None:
    """Where the stage's weights come from: the earlier stage's model or the recipe's checkpoint; None draws them."""
    model = stage_model(start)
    return str(model) if model is not None else stage.stage.model.checkpoint


@final
class StartingWeights:
    """What a stage's networks start from; every call gives a network of its own with equal weights."""

    def __init__(self, architecture: Architecture, *, folder: str | None, seed: int, pickles: bool = False) -> None:
        """Take the checkpoint in `folder`, or draw by `seed` where there is none; `pickles` may be read."""
        self._architecture, self._folder, self._seed, self._pickles = architecture, folder, seed, pickles

    def fingerprint(self) -> str:
        """Sum of what the weights come from: a checkpoint's files and its config, or the draw."""
        if self._folder is None:
            return f"drawn by {self._seed}"
        files = {stored.file for stored in read_checkpoint(self._folder, pickles=self._pickles).values()}
        digest = hashlib.sha256()
        for path in (*sorted(Path(file) for file in files), Path(self._folder) / "config.json"):
            if path.is_file():
                with path.open("rb") as file:
                    digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def policy(self, placement: Placement) -> Policy:
        """The network, its weights placed; raises CheckpointError where they do not fit."""
        if self._folder is None:
            return self._drawn(placement)
        with _Unfilled():
            policy = self._architecture.empty_policy()
        stored = read_checkpoint(self._folder, pickles=self._pickles)
        wanted = {name: tuple(tensor.shape) for name, tensor in policy.state_dict().items()}
        check_fit(stored, wanted, self._architecture.ignored_keys, where=self._folder)
        check_types(stored, _floating(policy), where=self._folder)
        _fill(policy, stored, placement)
        return policy

    def _drawn(self, placement: Placement) -> Policy:
        """The network with random weights; the same ones, however they are placed."""
        if placement.among is None:
            return _placed(self._architecture.build_policy(seed=self._seed), placement)
        with DrawnInParts(placement.among) as drawing:
            policy = self._architecture.build_policy(seed=self._seed)
        drawing.all_whole(but={each.untyped_storage()._cdata for each in policy.parameters()})
        return _placed(policy, placement, whole=drawing.whole)


def _floating(policy: Policy) -> list[str]:
    """Names of what the network computes with."""
    return [name for name, tensor in policy.state_dict().items() if tensor.is_floating_point()]


@final
class _Unfilled(TorchFunctionMode):
    """Inside, memory that nobody has written to yet is not taken; tensors made with values are real."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func is torch.empty and named.get("device") is None:
            named["device"] = META
        return func(*args, **named)


def _fill(policy: Policy, stored: Mapping[str, StoredTensor], placement: Placement) -> None:
    """Give every parameter and lasting buffer of `policy` memory and its stored values, in the order of the network."""
    lasting = policy.state_dict(keep_vars=True)
    placed: dict[int, nn.Parameter] = {}  # a weight that stands in two places stays one
    with Weights(stored) as weights, torch.no_grad():
        for path, module in policy.named_modules():
            for own, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
                if id(parameter) not in placed:
                    filled = _filled(parameter, f"{path}.{own}".lstrip("."), weights, placement)
                    made = nn.Parameter(filled, requires_grad=parameter.requires_grad)
                    placement.settle(made)
                    placed[id(parameter)] = made
                module.register_parameter(own, placed[id(parameter)])
            for own, buffer in list(module.named_buffers(recurse=False)):
                name = f"{path}.{own}".lstrip(".")
                module._buffers[own] = _buffer(buffer, name, lasting, weights, placement)


def _filled(tensor: Tensor, name: str, weights: Weights, placement: Placement) -> Tensor:
    """Memory of the shape of `tensor` [...], holding the stored values."""
    dtype = placement.dtype if tensor.is_floating_point() else tensor.dtype
    filled = torch.empty(tensor.shape, dtype=dtype, device=placement.device).copy_(weights[name])
    check_finite(filled, name, where=weights.stored[name].file)
    return filled


def _buffer(buffer: Tensor, name: str, lasting: Mapping[str, Tensor], weights: Weights, placement: Placement) -> Tensor:
    """A buffer [...] where it belongs: read when it is stored, else as the network computed it."""
    if name in lasting:
        return _filled(buffer, name, weights, placement)
    if buffer.device == META:
        raise PluginError(
            f"the network leaves its buffer {name} to be filled, and no checkpoint holds it",
            hint="compute it when the network is made, or make it persistent",
        )
    return buffer.to(placement.device)


def _placed(policy: Policy, placement: Placement, *, whole: Callable[[nn.Parameter], None] = lambda _: None) -> Policy:
    """A network on the host, given to the backend parameter by parameter; `whole` fetches what one still lacks."""
    for parameter in policy.parameters():
        whole(parameter)
        parameter.data = parameter.data.to(placement.device, placement.dtype)
        placement.settle(parameter)
    for name, buffer in policy.named_buffers():
        owner, _, own = name.rpartition(".")
        policy.get_submodule(owner)._buffers[own] = buffer.to(placement.device)
    return policy
