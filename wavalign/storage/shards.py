"""Writing weights: safetensors in one file, or in shards of a bounded size with an index.

The layout is the public one: `model.safetensors`, or `model-00001-of-0000N.safetensors` with
`model.safetensors.index.json`. What a folder held before stays readable until the new weights are complete.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import final

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from wavalign.errors import StorageError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
METADATA = {"format": "pt"}
"""What public loaders expect in a file's header."""
SHARD_BYTES = 5_000_000_000
"""Largest file where nobody says otherwise; a single tensor may exceed it."""
_HINT = "free space on the disk, or look at its permissions"


@final
class ShardWriter:
    """Takes tensors one after another and holds no more of them than fit into one file."""

    def __init__(
        self, folder: Path, max_shard_bytes: int = SHARD_BYTES, metadata: Mapping[str, str] = METADATA
    ) -> None:
        self._folder, self._limit, self._metadata = folder, max_shard_bytes, dict(metadata)
        self._held: dict[str, Tensor] = {}
        self._held_bytes = 0
        self._written: list[tuple[Path, list[str]]] = []
        self._total, self._parameters = 0, 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Take a tensor; a full shard is written first. Raises StorageError."""
        size = tensor.numel() * tensor.element_size()
        if self._held and self._held_bytes + size > self._limit:
            self._write_shard()
        self._held[name] = tensor.detach().cpu().contiguous()
        self._held_bytes += size
        self._total += size
        self._parameters += tensor.numel()

    def finish(self) -> None:
        """Write what is held and make all of it the folder's weights; raises StorageError."""
        if not self._written:
            self._store(SINGLE_FILE, self._held)
            self._held = {}
            self._remove_others({SINGLE_FILE})
            return
        self._write_shard()
        count = len(self._written)
        names = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
        shards = zip(names, self._written, strict=True)
        places = {name: final_name for final_name, (_, held) in shards for name in held}
        index = {
            "metadata": {"total_parameters": self._parameters, "total_size": self._total},
            "weight_map": places,
        }
        aside = self._folder / f".{INDEX_FILE}.{os.getpid()}"
        try:
            aside.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            for name, (path, _) in zip(names, self._written, strict=True):
                os.replace(path, self._folder / name)
            os.replace(aside, self._folder / INDEX_FILE)
            _flush(self._folder)
        except OSError as error:
            raise StorageError(f"{self._folder / INDEX_FILE} could not be written: {error}", hint=_HINT) from error
        finally:
            aside.unlink(missing_ok=True)
        self._remove_others({*names, INDEX_FILE})

    def discard(self) -> None:
        """Remove the shards of a writing that failed; harmless after `finish`."""
        for path, _ in self._written:
            path.unlink(missing_ok=True)

    def _write_shard(self) -> None:
        name = f".shard-{len(self._written) + 1}.{os.getpid()}"
        self._store(name, self._held)
        self._written.append((self._folder / name, list(self._held)))
        self._held, self._held_bytes = {}, 0

    def _store(self, name: str, tensors: dict[str, Tensor]) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_tensors(tensors, self._folder / name, metadata=dict(METADATA))
        except (OSError, SafetensorError) as error:
            raise StorageError(f"{self._folder / SINGLE_FILE} could not be written: {error}", hint=_HINT) from error

    def _remove_others(self, names: set[str]) -> None:
        """Remove weights of an earlier writing, which would be read instead of these or beside them."""
        for path in (
            *self._folder.glob("model-*-of-*.safetensors"),
            self._folder / SINGLE_FILE,
            self._folder / INDEX_FILE,
        ):
            if path.name not in names:
                path.unlink(missing_ok=True)


def save_weights(tensors: Mapping[str, Tensor], folder: str, *, max_shard_bytes: int = SHARD_BYTES) -> None:
    """Write `tensors` as the weights of `folder`, complete or not at all; raises StorageError."""
    writer = ShardWriter(Path(folder), max_shard_bytes)
    try:
        for name, tensor in tensors.items():
            writer.add(name, tensor)
        writer.finish()
    finally:
        writer.discard()


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


def _flush(path: Path) -> None:
    """Force a file or a folder's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
