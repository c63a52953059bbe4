"""Answers as bytes that hold no code, to the last bit: what a checkpoint keeps of those that wait for their step.

All numbers of one type lie in one tensor of a safetensors file, and what they are parts of is JSON in another. Of a
group its dialogue and what its prompt hears are left out: they are made again of the data.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from wavalign.errors import ResumeError
from wavalign.plugins.batch import Answer, Dialogue, Rollout, RolloutGroup, SoundSegment, TokenSequence, Waveform

_RECORDS: Mapping[str, Callable[..., Any]] = {
    each.__name__: each for each in (Answer, Rollout, SoundSegment, TokenSequence, Waveform)
}
_LAYOUT = "records"
"""The tensor that says what the others are parts of."""


def packed(groups: Sequence[RolloutGroup]) -> bytes:
    """`groups` as the bytes of a safetensors file."""
    packer = _Packer()
    records = [
        {
            "dialogue": group.dialogue.id,
            "prompt": packer.add(replace(group.prompt, sounds=())),
            "rollouts": packer.add(group.rollouts),
        }
        for group in groups
    ]
    layout = torch.frombuffer(bytearray(json.dumps(records).encode()), dtype=torch.uint8)
    return save({**packer.tensors(), _LAYOUT: layout})


def unpacked(
    data: bytes, dialogues: Sequence[Dialogue], prompt: Callable[[Dialogue], TokenSequence]
) -> list[RolloutGroup]:
    """The groups of `packed`, to `dialogues` whose prompts are written anew by `prompt`.

    Raises ResumeError where they are not answers to these.
    """
    try:
        tensors = load(data)
        records = json.loads(tensors.pop(_LAYOUT).numpy().tobytes())
    except (SafetensorError, KeyError, ValueError) as error:
        raise ResumeError(f"the answers in a checkpoint cannot be read: {error}") from error
    if [each["dialogue"] for each in records] != [dialogue.id for dialogue in dialogues]:
        raise ResumeError(
            "the answers that a checkpoint keeps for the next step are to other prompts than the data gives",
            hint="resume on the same data",
        )
    groups = []
    for each, dialogue in zip(records, dialogues, strict=True):
        stored, written = _made(each["prompt"], tensors), prompt(dialogue)
        groups.append(RolloutGroup(dialogue, replace(stored, sounds=written.sounds), _made(each["rollouts"], tensors)))
    return groups


@final
class _Packer:
    """Collects the numbers of records."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Tensor]] = {}
        self._sizes: dict[str, int] = {}

    def add(self, value: Any) -> Any:
        """`value` as JSON, its numbers set apart."""
        if isinstance(value, Tensor):
            return self._place(value.detach().cpu(), "tensor")
        if isinstance(value, np.ndarray):
            return self._place(torch.from_numpy(np.ascontiguousarray(value)), "array")
        if is_dataclass(value):
            named = {each.name: self.add(getattr(value, each.name)) for each in fields(value)}
            return {"record": type(value).__name__, "fields": named}
        return [self.add(each) for each in value] if isinstance(value, tuple) else value

    def tensors(self) -> dict[str, Tensor]:
        """By type, all numbers [N] of it."""
        return {name: torch.cat(parts) for name, parts in self._parts.items()}

    def _place(self, tensor: Tensor, kind: str) -> dict[str, Any]:
        """Where the numbers of `tensor` [...] lie."""
        name = str(tensor.dtype).removeprefix("torch.")
        start = self._sizes.get(name, 0)
        self._parts.setdefault(name, []).append(tensor.reshape(-1))
        self._sizes[name] = start + tensor.numel()
        return {kind: name, "start": start, "shape": list(tensor.shape)}


def _made(stored: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `_Packer.add` made JSON of; `tensors` [N] by type."""
    if isinstance(stored, list):
        return tuple(_made(each, tensors) for each in stored)
    if not isinstance(stored, dict):
        return stored
    if "record" in stored:
        named = {name: _made(each, tensors) for name, each in stored["fields"].items()}
        return _RECORDS[stored["record"]](**named)
    kind = "tensor" if "tensor" in stored else "array"
    start, size = stored["start"], torch.Size(stored["shape"])
    found = tensors[stored[kind]][start : start + size.numel()].view(size).clone()
    return found if kind == "tensor" else found.numpy()
