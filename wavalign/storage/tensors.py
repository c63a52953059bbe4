"""Weights on disk: safetensors in one file or in shards with an index, and pickles where a recipe allows them.

Headers are read without the tensors, so that a checkpoint can be judged before anything is allocated. Tensors are read
one by one from mapped files: several processes on one machine share the pages, and nobody holds a file's content.
Writing is in `plugins/shards.py`.
"""

import json
import math
import pickle
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self, final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from wavalign.errors import CheckpointError, quoted
from wavalign.storage.shards import INDEX_FILE, SINGLE_FILE, save_weights, write_tensors

__all__ = [
    "INDEX_FILE", "PICKLES", "PICKLE_FILE", "PICKLE_INDEX", "SINGLE_FILE", "StoredTensor", "Weights", "check_finite",
    "check_fit", "check_inside", "check_types", "check_values", "index_files", "is_ignored", "load_into", "misfits",
    "read_checkpoint", "read_header", "save_weights", "weight_files", "write_tensors",
]  # fmt: skip

PICKLE_FILE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
"""Endings of files that can run code when they are read carelessly."""
DTYPES: dict[torch.dtype, str] = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""Types of tensors as safetensors spells them."""
ITEM_BYTES = {name: dtype.itemsize for dtype, name in DTYPES.items()}
LARGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""
READ_IN_PASSING = 2 * 2**30
"""Bytes of weights that a dry run reads to see that they are numbers."""


@final
@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies and what it is, without its values."""

    file: str
    shape: tuple[int, ...]
    dtype: str
    """As safetensors spells it, e.g. `BF16`."""


def read_checkpoint(folder: str, *, pickles: bool = False) -> dict[str, StoredTensor]:
    """Name -> header of every tensor in `folder`; raises CheckpointError when files are missing, torn or refused."""
    found: dict[str, StoredTensor] = {}
    for path in weight_files(Path(folder), pickles=pickles):
        if path.suffix in PICKLES:
            tensors = _unpickled(path)
            found |= {name: StoredTensor(str(path), tuple(x.shape), DTYPES[x.dtype]) for name, x in tensors.items()}
            continue
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


def read_header(read: Callable[[int, int], bytes], where: str) -> dict[str, StoredTensor]:
    """Headers of the safetensors file `where`, of which `read(start, end)` gives bytes; raises CheckpointError."""
    try:
        size = int.from_bytes(read(0, 8), "little")
        if not 2 <= size <= LARGEST_HEADER:
            raise ValueError(f"its header would have {size} bytes")
        entries = json.loads(read(8, 8 + size))
        entries.pop("__metadata__", None)
        return {
            name: StoredTensor(where, tuple(int(side) for side in entry["shape"]), str(entry["dtype"]))
            for name, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{where} is no safetensors file: {error}") from error


def misfits(
    stored: Mapping[str, StoredTensor], wanted: Mapping[str, tuple[int, ...]], ignored_keys: Sequence[str]
) -> list[str]:
    """Every way in which `stored` tensors are not the `wanted` ones, one line a tensor."""
    missing = [f"missing: {name} {list(shape)}" for name, shape in wanted.items() if name not in stored]
    unexpected = [
        f"unexpected: {name} {list(tensor.shape)}"
        for name, tensor in stored.items()
        if name not in wanted and not is_ignored(name, ignored_keys)
    ]
    mismatched = [
        f"shape: {name} is {list(stored[name].shape)}, wanted {list(shape)}"
        for name, shape in wanted.items()
        if name in stored and stored[name].shape != shape
    ]
    return [line for kind in (missing, unexpected, mismatched) for line in kind]


def is_ignored(name: str, ignored_keys: Sequence[str]) -> bool:
    """Whether an architecture leaves the tensor `name` of a checkpoint alone."""
    return any(re.search(pattern, name) for pattern in ignored_keys)


def check_fit(
    stored: Mapping[str, StoredTensor],
    wanted: Mapping[str, tuple[int, ...]],
    ignored_keys: Sequence[str],
    *,
    where: str,
) -> None:
    """Raise one CheckpointError that names every misfit of the checkpoint `where`."""
    lines = misfits(stored, wanted, ignored_keys)
    if lines:
        raise CheckpointError(
            f"{where} does not fit the network in {len(lines)} tensors:\n  " + "\n  ".join(lines),
            hint="the checkpoint is of another architecture or size",
        )


def check_types(stored: Mapping[str, StoredTensor], floating: Iterable[str], *, where: str) -> None:
    """Raise CheckpointError where a tensor that the network computes with is stored as whole numbers or booleans."""
    wrong = [f"{name} is {stored[name].dtype}" for name in floating if not stored[name].dtype.startswith(("F", "BF"))]
    if wrong:
        raise CheckpointError(
            f"{where} holds whole numbers in the place of weights:\n  " + "\n  ".join(wrong),
            hint="a quantised checkpoint? take the weights in float32, float16 or bfloat16",
        )


def check_finite(tensor: Tensor, name: str, *, where: str) -> None:
    """Raise CheckpointError naming the tensor where one of its numbers is NaN or infinite."""
    if not tensor.numel() or not tensor.is_floating_point():
        return
    values = tensor if tensor.itemsize > 1 else tensor.float()
    if math.isfinite(float(torch.linalg.vector_norm(values, math.inf))):  # one pass, no copy
        return
    bad = int((~torch.isfinite(values)).sum())
    raise CheckpointError(
        f"{where}: {name} holds NaN or infinite numbers ({bad} of {tensor.numel()})",
        hint="the checkpoint is broken: fetch it again, or take one from before it broke",
    )


def check_values(stored: Mapping[str, StoredTensor], names: Iterable[str], *, where: str) -> str:
    """Raise as `check_finite` does for any of the tensors `names`; gives why they were not read, empty if they were."""
    wanted = [stored[name] for name in names]
    if any(not Path(each.file).is_file() for each in wanted):
        return "their values show when they are fetched"
    size = sum(math.prod(each.shape) * ITEM_BYTES.get(each.dtype, 4) for each in wanted)
    if size > READ_IN_PASSING:
        return f"{size / 2**30:.1f} GiB of values not looked at, the run does as it reads them"
    with Weights(stored) as weights:
        for name in names:
            check_finite(weights[name], name, where=where)
    return ""


@final
class Weights:
    """The tensors of a checkpoint by name, read from mapped files when asked for; a context manager."""

    def __init__(self, stored: Mapping[str, StoredTensor]) -> None:
        self.stored = stored
        self._readers: dict[str, Callable[[str], Tensor]] = {}
        self._open = ExitStack()

    def __getitem__(self, name: str) -> Tensor:
        """The tensor as it is stored; it is a view of the file and must not be written to."""
        path = self.stored[name].file
        if path not in self._readers:
            self._readers[path] = self._reader(Path(path))
        return self._readers[path](name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._readers.clear()
        self._open.close()

    def _reader(self, path: Path) -> Callable[[str], Tensor]:
        if path.suffix in PICKLES:
            return _unpickled(path).__getitem__
        handle: Any = self._open.enter_context(safe_open(str(path), framework="pt"))
        read: Callable[[str], Tensor] = handle.get_tensor
        return read


def load_into(policy: nn.Module, folder: str, ignored_keys: Sequence[str], *, pickles: bool = False) -> None:
    """Copy the weights in `folder` into `policy`, converted to its dtype.

    Raises CheckpointError where they do not fit; the policy is then as it was.
    """
    target, stored = policy.state_dict(), read_checkpoint(folder, pickles=pickles)
    check_fit(stored, {name: tuple(tensor.shape) for name, tensor in target.items()}, ignored_keys, where=folder)
    with torch.no_grad(), Weights(stored) as weights:
        for name in sorted(target, key=lambda each: stored[each].file):
            target[name].copy_(weights[name])


def weight_files(folder: Path, *, pickles: bool = False) -> list[Path]:
    """The files of `folder` that hold its weights: a single one, or those its index names."""
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    if (folder / INDEX_FILE).is_file():
        return _indexed(folder / INDEX_FILE)
    found = sorted(path for path in folder.glob("*") if path.suffix in PICKLES)
    if found and not pickles:
        raise CheckpointError(
            f"{folder} holds its weights in {', '.join(path.name for path in found)}, a format that can run code when "
            "it is read",
            hint="convert them to safetensors, or set model.allow_pickles: true to read them in torch's restricted way",
        )
    if (folder / PICKLE_INDEX).is_file():
        return _indexed(folder / PICKLE_INDEX)
    if (folder / PICKLE_FILE).is_file():
        return [folder / PICKLE_FILE]
    if len(found) > 1:
        raise CheckpointError(f"{folder} holds {', '.join(path.name for path in found)} and no {PICKLE_INDEX}")
    if found:
        return found
    raise CheckpointError(f"{folder} holds no {SINGLE_FILE} and no {INDEX_FILE}")


def index_files(text: str, where: str) -> list[str]:
    """Names of the files that an index's `text` speaks of, in order; raises CheckpointError."""
    try:
        names = sorted({str(name) for name in json.loads(text)["weight_map"].values()})
    except (json.JSONDecodeError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{where} cannot be read: {error}", hint="fetch it again") from error
    check_inside(names, where)
    return names


def check_inside(names: Iterable[str], where: str) -> None:
    """Raise CheckpointError where one of the `names` that `where` gives is no file under its own folder."""
    for name in names:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or not name.isprintable():
            raise CheckpointError(
                f"{where} points outside its folder, or at nothing: {quoted(repr(name))}",
                hint="its files must lie beside it; do not use a checkpoint that says otherwise",
            )


def _indexed(index: Path) -> list[Path]:
    try:
        text = index.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{index} cannot be read: {error}", hint="fetch it again") from error
    files = [index.parent / name for name in index_files(text, str(index))]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise CheckpointError(f"{index.parent} lacks {', '.join(absent)}", hint="fetch the missing shards")
    return files


def _unpickled(path: Path) -> dict[str, Tensor]:
    """Name -> tensor of a pickle, mapped; raises CheckpointError for anything but plain tensors."""
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and was not read: {str(error).splitlines()[0]}",
            hint="convert it to safetensors where you trust it",
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {str(error).splitlines()[0]}", hint="the file is torn, or of an old format"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not tensors by name")
    strange = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise CheckpointError(f"{path} holds more than tensors: {', '.join(strange[:5])}", hint="expected a state dict")
    return content
