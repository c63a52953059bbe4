"""The safetensors file of a fitted codec: its tensors, and its kind and sizes in the metadata."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from safetensors import SafetensorError, safe_open
from torch import Tensor

from wavalign.errors import CheckpointError, StorageError
from wavalign.storage.tensors import write_tensors

HINT = "give the file that was written by fitting the codec"


class Sizes(Protocol):
    """A dataclass of whole numbers."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


S = TypeVar("S", bound=Sizes)


def write_codec(tensors: Mapping[str, Tensor], settings: Sizes, path: str | Path, *, form: str) -> None:
    """Write a codec of the kind `form`. Raises StorageError."""
    metadata = {"format": form, "settings": json.dumps(asdict(settings))}
    try:
        write_tensors(dict(tensors), Path(path), metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path}: the codec cannot be written: {error}") from error


def read_codec(path: str | Path, sizes: type[S], *, form: str, what: str) -> tuple[S, dict[str, Tensor]]:
    """The `sizes` and tensors of what `write_codec` wrote. Raises CheckpointError for anything else."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no iterator
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: the codec cannot be read: {error}", hint=HINT) from error
    if metadata.get("format") != form:
        raise CheckpointError(f"{path}: not a {what}", hint=HINT)
    try:
        return sizes(**json.loads(metadata["settings"])), tensors
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: its settings cannot be read: {error}", hint=HINT) from error


def check_shapes(tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], path: str | Path) -> None:
    """Raise CheckpointError unless the `wanted` tensors are there in these shapes."""
    for name, shape in wanted.items():
        if name not in tensors:
            raise CheckpointError(f"{path}: it lacks {name}", hint=HINT)
        if tuple(tensors[name].shape) != shape:
            raise CheckpointError(f"{path}: {name} is {tuple(tensors[name].shape)}, not {shape}", hint=HINT)
