"""Records as bytes that hold no code, to the last bit: answers that wait for their step, the rows of an update.

All numbers of one type lie in one tensor of a safetensors file, and what they are parts of is JSON in another. Lists
come back as tuples.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from wavalign.errors import ResumeError

_LAYOUT = "records"
"""The tensor that says what the others are parts of."""


def as_bytes(value: Any) -> bytes:
    """`value` - a frozen dataclass, a tensor, an array, a tuple, a mapping by names or a JSON value - as a file."""
    parts = _Parts()
    described = json.dumps(_described(value, parts)).encode()
    layout = torch.frombuffer(bytearray(described), dtype=torch.uint8)
    return save({**parts.tensors(), _LAYOUT: layout})


def from_bytes(data: bytes, records: Iterable[type]) -> Any:
    """The value of `as_bytes`, whose dataclasses are among `records`; raises ResumeError where it is none."""
    known: Mapping[str, Callable[..., Any]] = {each.__name__: each for each in records}
    try:
        tensors = load(data)
        return _made(json.loads(tensors.pop(_LAYOUT).numpy().tobytes()), tensors, known)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ResumeError(f"the records in a checkpoint cannot be read: {error}") from error


@final
class _Parts:
    """The numbers of records, by type."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Tensor]] = {}
        self._sizes: dict[str, int] = {}

    def tensors(self) -> dict[str, Tensor]:
        """By type, all numbers [N] of it."""
        return {name: torch.cat(parts) for name, parts in self._parts.items()}

    def place(self, tensor: Tensor, kind: str) -> dict[str, Any]:
        """Where the numbers of `tensor` [...] lie."""
        name = str(tensor.dtype).removeprefix("torch.")
        start = self._sizes.get(name, 0)
        self._parts.setdefault(name, []).append(tensor.reshape(-1))
        self._sizes[name] = start + tensor.numel()
        return {kind: name, "start": start, "shape": list(tensor.shape)}


def _described(value: Any, parts: _Parts) -> Any:
    """`value` as JSON, its numbers set apart in `parts`."""
    if isinstance(value, Tensor):
        return parts.place(value.detach().cpu(), "tensor")
    if isinstance(value, np.ndarray):
        return parts.place(torch.from_numpy(np.ascontiguousarray(value)), "array")
    if is_dataclass(value):
        named = {each.name: _described(getattr(value, each.name), parts) for each in fields(value)}
        return {"record": type(value).__name__, "fields": named}
    if isinstance(value, Mapping):
        return {"named": {name: _described(each, parts) for name, each in value.items()}}
    return [_described(each, parts) for each in value] if isinstance(value, tuple | list) else value


def _made(stored: Any, tensors: Mapping[str, Tensor], known: Mapping[str, Callable[..., Any]]) -> Any:
    """What `_described` made JSON of; `tensors` [N] by type."""
    if isinstance(stored, list):
        return tuple(_made(each, tensors, known) for each in stored)
    if not isinstance(stored, dict):
        return stored
    if "named" in stored:
        return {name: _made(each, tensors, known) for name, each in stored["named"].items()}
    if "record" in stored:
        named = {name: _made(each, tensors, known) for name, each in stored["fields"].items()}
        return known[stored["record"]](**named)
    kind = "tensor" if "tensor" in stored else "array"
    start, size = stored["start"], torch.Size(stored["shape"])
    found = tensors[stored[kind]][start : start + size.numel()].view(size).clone()
    return found if kind == "tensor" else found.numpy()
