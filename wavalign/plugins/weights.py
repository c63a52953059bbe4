"""Weights on disk: safetensors only, in one file or in shards with an index.

Headers are read without the tensors, so that a checkpoint can be judged before anything is allocated.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from wavalign.errors import CheckpointError, StorageError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
REFUSED = (".bin", ".pt", ".pth", ".ckpt")


@final
@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies and what it is, without its values."""

    file: str
    shape: tuple[int, ...]
    dtype: str
    """As safetensors spells it, e.g. `BF16`."""


def read_checkpoint(folder: str) -> dict[str, StoredTensor]:
    """Name -> header of every tensor in `folder`; raises CheckpointError when files are missing, torn or refused."""
    found: dict[str, StoredTensor] = {}
    for path in _weight_files(Path(folder)):
        try:
            with safe_open(str(path), framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - the handle is no mapping
                    part = file.get_slice(name)
                    found[name] = StoredTensor(str(path), tuple(part.get_shape()), str(part.get_dtype()))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} cannot be read: {error}", hint="the file is missing or torn; fetch it again"
            ) from error
    return found


def misfits(
    stored: Mapping[str, StoredTensor], wanted: Mapping[str, tuple[int, ...]], ignored_keys: Sequence[str]
) -> list[str]:
    """Every way in which `stored` tensors are not the `wanted` ones, one line a tensor."""
    ignored = [re.compile(pattern) for pattern in ignored_keys]
    missing = [f"missing: {name} {list(shape)}" for name, shape in wanted.items() if name not in stored]
    unexpected = [
        f"unexpected: {name} {list(tensor.shape)}"
        for name, tensor in stored.items()
        if name not in wanted and not any(pattern.search(name) for pattern in ignored)
    ]
    mismatched = [
        f"shape: {name} is {list(stored[name].shape)}, wanted {list(shape)}"
        for name, shape in wanted.items()
        if name in stored and stored[name].shape != shape
    ]
    return [line for kind in (missing, unexpected, mismatched) for line in kind]


def check_fit(
    folder: str, wanted: Mapping[str, tuple[int, ...]], ignored_keys: Sequence[str]
) -> dict[str, StoredTensor]:
    """Headers of `folder` once they fit `wanted`; raises one CheckpointError that names every misfit."""
    stored = read_checkpoint(folder)
    lines = misfits(stored, wanted, ignored_keys)
    if lines:
        raise CheckpointError(
            f"{folder} does not fit the network in {len(lines)} tensors:\n  " + "\n  ".join(lines),
            hint="the checkpoint is of another architecture or size",
        )
    return stored


def load_into(policy: nn.Module, folder: str, ignored_keys: Sequence[str]) -> None:
    """Copy the weights in `folder` into `policy`, converted to its dtype.

    Raises CheckpointError where they do not fit; the policy is then as it was.
    """
    target = policy.state_dict()
    stored = check_fit(folder, {name: tuple(tensor.shape) for name, tensor in target.items()}, ignored_keys)
    by_file: dict[str, list[str]] = {}
    for name in target:
        by_file.setdefault(stored[name].file, []).append(name)
    with torch.no_grad():
        for path, names in by_file.items():
            with safe_open(path, framework="pt") as file:
                for name in names:
                    target[name].copy_(file.get_tensor(name))


def save_weights(state_dict: Mapping[str, Tensor], folder: str) -> None:
    """Write `model.safetensors` so that it is complete or absent; raises StorageError."""
    place = Path(folder)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    try:
        place.mkdir(parents=True, exist_ok=True)
        write_tensors(tensors, place / SINGLE_FILE, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{place / SINGLE_FILE} could not be written: {error}") from error


def write_tensors(tensors: dict[str, Tensor], path: Path, *, metadata: dict[str, str]) -> None:
    """Replace `path` by a safetensors file at once: written aside, flushed to the disk and renamed.

    Its permissions are those of any new file. Raises OSError and SafetensorError; the old file then stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the umask leaves; safetensors makes its files private
        save_file(tensors, str(temporary), metadata=metadata)
        temporary.chmod(mode)
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of `folder`: the single one, or those its index names."""
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    index = folder / INDEX_FILE
    if index.is_file():
        try:
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{index} cannot be read: {error}", hint="fetch it again") from error
        files = [folder / str(name) for name in sorted(set(names))]
        absent = [file.name for file in files if not file.is_file()]
        if absent:
            raise CheckpointError(f"{folder} lacks {', '.join(absent)}", hint="fetch the missing shards")
        return files
    refused = sorted(path.name for path in folder.glob("*") if path.suffix in REFUSED)
    if refused:
        raise CheckpointError(
            f"{folder} holds its weights in {', '.join(refused)}, a format that can run code when it is read",
            hint="convert them to safetensors",
        )
    raise CheckpointError(f"{folder} holds no {SINGLE_FILE} and no {INDEX_FILE}")


def _flush(path: Path) -> None:
    """Force a file or a folder's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
