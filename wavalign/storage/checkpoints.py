"""Checkpoints that lie elsewhere: `hf://org/name[@revision][/folder]`, `s3://`, `gs://`, `https://`, any fsspec URL.

What is asked for is fetched once into a cache and from there on is a local folder: Hugging Face's own cache for `hf://`,
`cache_folder()/checkpoints` for everything else. A file in the cache is complete or absent; one that was cut off goes
on where it stopped. One process of a machine fetches while the others wait. A dry run fetches only what describes the
checkpoint and reads the tensors' names and shapes from the first bytes of its files.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from wavalign.errors import CheckpointError, StorageError
from wavalign.storage.cache import cache_folder
from wavalign.storage.hub import HubStore
from wavalign.storage.stores import FsspecStore, HttpStore, RemoteFile, Store, UnreachableError
from wavalign.storage.tensors import (
    INDEX_FILE,
    PICKLE_FILE,
    PICKLE_INDEX,
    PICKLES,
    SINGLE_FILE,
    StoredTensor,
    check_inside,
    index_files,
    read_checkpoint,
    read_header,
)

Want = Literal["layout", "weights", "everything"]
"""`layout` describes a checkpoint (config, tokenizer), `weights` adds its tensors, `everything` is every file."""
Progress = Callable[[str, int, int], None]
LAYOUT = (".json", ".jinja", ".model", ".py", ".tiktoken", ".txt", ".yaml", ".yml")
_MEGABYTE = 1_000_000
_PICKLED = {"hint": "set model.allow_pickles: true to read them in torch's restricted way, or convert them"}


def local_folder(address: str, *, want: Want, pickles: bool = False, progress: Progress) -> str:
    """A local folder that holds what is wanted of the checkpoint at `address`; a local path is given back as it is.

    `pickles` also fetches weights in `.bin` and `.pt` files where there are no safetensors. `progress(what, done,
    total)` counts megabytes. Raises CheckpointError when the place cannot be read, StorageError when the disk is full.
    """
    local = local_path(address)
    if local is not None:
        return local
    store = _store(address)
    with _locked(store):
        if isinstance(store, HubStore):
            return _from_hub(store, want, pickles, progress)
        return str(_mirrored(store, want, pickles, progress))


def local_path(address: str) -> str | None:
    """The path that `address` is, None where it lies elsewhere."""
    if "://" not in address:
        return address
    return address.removeprefix("file://") if address.startswith("file://") else None


def read_headers(address: str, *, pickles: bool = False) -> dict[str, StoredTensor] | None:
    """Name -> header of every tensor at `address`, no tensor fetched; None where remote pickles would tell.

    Raises CheckpointError when weights are missing, torn or refused.
    """
    local = local_path(address)
    if local is not None:
        return read_checkpoint(local, pickles=pickles)
    store = _store(address)
    try:
        found = store.list()
        names = _weight_names(store, found, pickles=pickles)
        if any(name.endswith(PICKLES) for name in names):
            return None
        tensors: dict[str, StoredTensor] = {}
        for name in names:
            tensors |= read_header(lambda start, end, at=name: store.read(at, start, end), f"{store.shown}/{name}")  # type: ignore[misc]
        return tensors
    except UnreachableError as error:
        folder = _fetched_before(store, "weights", pickles)
        if folder is None:
            raise error.as_checkpoint_error() from error
        return read_checkpoint(folder, pickles=pickles)


# --- what to fetch ----------------------------------------------------------------------------------------------------


def _store(address: str) -> Store:
    """The store that `address` names; raises CheckpointError for an address that carries a secret."""
    parts = urlsplit(address)
    if parts.password is not None or parts.query or (parts.scheme in ("http", "https") and parts.username is not None):
        raise CheckpointError(
            f"the address of the checkpoint at {parts.scheme}://{parts.hostname} carries a password or a key, which "
            "plans and logs would keep",
            hint="leave it out: AWS_..., GOOGLE_..., HF_TOKEN or ~/.netrc say who you are",
        )
    if parts.scheme == "hf":
        return HubStore(address)
    if parts.scheme in ("http", "https"):
        return HttpStore(address)
    return FsspecStore(address)


def _weight_names(store: Store, found: Mapping[str, RemoteFile], *, pickles: bool) -> list[str]:
    """Files of a remote checkpoint that hold its weights, the same choice as in a local one."""
    if SINGLE_FILE in found:
        return [SINGLE_FILE]
    if INDEX_FILE in found:
        names = _read_index(store, INDEX_FILE, found)
    else:
        refused = sorted(name for name in found if "/" not in name and name.endswith(PICKLES))
        if refused and not pickles:
            message = f"{store.shown} holds its weights in {', '.join(refused)}, a format that can run code"
            raise CheckpointError(message, **_PICKLED)
        if PICKLE_INDEX in found:
            names = _read_index(store, PICKLE_INDEX, found)
        elif PICKLE_FILE in found or len(refused) == 1:
            names = [PICKLE_FILE if PICKLE_FILE in found else refused[0]]
        else:
            raise CheckpointError(
                f"{store.shown} holds no {SINGLE_FILE} and no {INDEX_FILE}", hint="is it the folder of a checkpoint?"
            )
    absent = [name for name in names if name not in found]
    if absent:
        raise CheckpointError(f"{store.shown} lacks {', '.join(absent)}", hint="the checkpoint is incomplete")
    return names


def _read_index(store: Store, name: str, found: Mapping[str, RemoteFile]) -> list[str]:
    text = store.read(name, 0, found[name].size).decode("utf-8", "replace")
    return index_files(text, f"{store.shown}/{name}")


def _names(store: Store, found: Mapping[str, RemoteFile], want: Want, pickles: bool) -> list[str]:
    """Files to fetch, small ones first. Other parts' safetensors (an encoder's) come along with the weights."""
    if not found:
        raise CheckpointError(f"{store.shown} holds no files", hint="is it the folder of a checkpoint?")
    check_inside(found, store.shown)
    if want == "everything":
        return sorted(found, key=lambda name: (found[name].size, name))
    names = {name for name in found if name.endswith(LAYOUT)}
    if want == "weights":
        names.update(_weight_names(store, found, pickles=pickles))
        names.update(name for name in found if "/" in name and name.endswith(".safetensors"))
    return sorted(names, key=lambda name: (found[name].size, name))


# --- into the cache ---------------------------------------------------------------------------------------------------


def _mirror(store: Store) -> Path:
    """The cache's folder for a store; its record stands beside it."""
    return cache_folder() / "checkpoints" / hashlib.sha256(store.shown.encode()).hexdigest()[:20]


def _mirrored(store: Store, want: Want, pickles: bool, progress: Progress) -> Path:
    folder = _mirror(store)
    try:
        found = store.list()
        names = _names(store, found, want, pickles)
        record = _record(folder)
        missing = [name for name in names if not _is_here(folder, name, found[name], record["files"])]
        _check_space(folder, sum(found[name].size for name in missing), store.shown)
        for name in missing:
            _fetch(store, folder, found[name], progress)
            record["files"][name] = [found[name].size, found[name].tag]
            _write_record(folder, {**record, "address": store.shown})
        if want not in record["wants"]:
            _write_record(folder, {**record, "address": store.shown, "wants": [*record["wants"], want]})
    except UnreachableError as error:
        before = _fetched_before(store, want, pickles)
        if before is None:
            raise error.as_checkpoint_error() from error
        progress(f"{store.shown} cannot be reached; the copy fetched before is taken", 1, 1)
    return folder


def _fetched_before(store: Store, want: Want, pickles: bool) -> str | None:
    """A folder of an earlier fetch that holds what is wanted, None where there is none."""
    if isinstance(store, HubStore):
        return store.cached(_patterns(want, pickles))
    held = _record(_mirror(store))["wants"]
    enough = {"layout": ("layout", "weights", "everything"), "weights": ("weights", "everything")}
    return str(_mirror(store)) if any(each in held for each in enough.get(want, (want,))) else None


def _fetch(store: Store, folder: Path, file: RemoteFile, progress: Progress) -> None:
    """Bring one file into the cache: written aside, checked by its size, renamed."""
    target = folder / file.name
    mark = hashlib.sha256(f"{file.size} {file.tag}".encode()).hexdigest()[:12]
    part = target.with_name(f".{target.name}.{mark}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        start = part.stat().st_size if part.exists() and file.tag else 0
        start = 0 if start > file.size else start
        with part.open("ab" if start else "wb") as out:
            done = start
            for piece in store.pieces(file.name, start) if start < file.size else ():
                out.write(piece)
                done += len(piece)
                progress(f"fetching {file.name} (MB)", done // _MEGABYTE, max(1, file.size // _MEGABYTE))
            out.flush()
            os.fsync(out.fileno())
        if done != file.size:
            raise CheckpointError(
                f"{store.shown}/{file.name} has {file.size} bytes and {done} came",
                hint="start again: what came is kept" if done < file.size else "the file changed while it was read",
            )
        os.replace(part, target)
    except OSError as error:
        raise StorageError(f"{target} could not be written: {error}", hint="free space on the disk") from error


def _is_here(folder: Path, name: str, file: RemoteFile, known: Mapping[str, Sequence[Any]]) -> bool:
    path = folder / name
    return path.is_file() and path.stat().st_size == file.size and list(known.get(name, ())) == [file.size, file.tag]


def _check_space(folder: Path, needed: int, shown: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            f"{shown} needs {needed / 1e9:.1f} GB more at {folder}, where {free / 1e9:.1f} GB are free",
            hint="free some space, or set WAVALIGN_CACHE to a larger disk",
        )


def _record(folder: Path) -> dict[str, Any]:
    """What was fetched into `folder`: `files` with size and tag, and the `wants` that were complete."""
    try:
        record: dict[str, Any] = json.loads(folder.with_suffix(".json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {"files": {}, "wants": []}
    return record


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    path = folder.with_suffix(".json")
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(record, indent=1), encoding="utf-8")
    os.replace(aside, path)


@contextmanager
def _locked(store: Store) -> Iterator[None]:
    """One process of a machine at a time; the kernel frees the lock of one that dies."""
    path = _mirror(store).with_suffix(".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("w", encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"{path} could not be written: {error}", hint="set WAVALIGN_CACHE to a folder of yours"
        ) from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


# --- Hugging Face -----------------------------------------------------------------------------------------------------


def _patterns(want: Want, pickles: bool) -> list[str]:
    if want == "everything":
        return ["*"]
    endings = LAYOUT if want == "layout" else (*LAYOUT, ".safetensors", *(PICKLES if pickles else ()))
    return [f"*{ending}" for ending in endings]


def _from_hub(store: HubStore, want: Want, pickles: bool, progress: Progress) -> str:
    """Through the hub's own cache, which checks sizes, resumes and knows revisions."""
    try:
        found = store.list()
        names = _names(store, found, want, pickles)
        small = [name for name in names if name.endswith(LAYOUT)]
        large = [name for name in names if name not in small]
        total = sum(found[name].size for name in names)
        progress(f"fetching {store.shown} (MB)", 0, max(1, total // _MEGABYTE))
        folder, done = store.fetch(small), sum(found[name].size for name in small)
        for name in large:
            store.fetch([name])
            done += found[name].size
            progress(f"fetching {store.shown} (MB)", done // _MEGABYTE, max(1, total // _MEGABYTE))
        return folder
    except UnreachableError as error:
        before = _fetched_before(store, want, pickles)
        if before is None:
            raise error.as_checkpoint_error() from error
        progress(f"{store.shown} cannot be reached; the copy fetched before is taken", 1, 1)
        return before
