"""Files that are complete or absent, and one error for a disk that refuses."""

import errno
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from wavalign.errors import ResumeError, StorageError
from wavalign.redaction import REDACTOR

_TORCH_WRITER = ("PytorchStreamWriter", "unexpected pos")
"""How `torch.save` words a write that the disk refused."""
_DAMAGED = "put the file back from a copy, or start a new run"


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turn a refused write inside into a StorageError that names `what`."""
    try:
        yield
    except OSError as error:
        raise _storage_error(what, error, full=error.errno in (errno.ENOSPC, errno.EDQUOT)) from error
    except SafetensorError as error:
        if "I/O" not in str(error) and "os error" not in str(error):
            raise
        raise _storage_error(what, error, full="os error 28" in str(error)) from error
    except RuntimeError as error:
        if not any(mark in str(error) for mark in _TORCH_WRITER):
            raise
        raise _storage_error(what, error, full=False) from error


@contextmanager
def full_disk(what: str) -> Iterator[None]:
    """Turn a disk that is full or read-only, wherever inside it is met, into a StorageError that names `what`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise _storage_error(what, error, full=error.errno != errno.EROFS) from error


def _storage_error(what: str, error: Exception, *, full: bool) -> StorageError:
    hint = "free space on the disk, then resume the run" if full else "check the disk's space and permissions"
    return StorageError(f"could not write {what}: {error}", hint=hint)


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` at once; raises StorageError and leaves the old file when that fails."""
    with storage_errors(str(path)):
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with temporary.open("x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file that a run wrote; raises ResumeError when it is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ResumeError(f"{path} is missing", hint=_DAMAGED) from error
    except (OSError, ValueError, RecursionError) as error:  # neither UTF-8 nor JSON, or nested without end
        raise ResumeError(f"{path} is damaged: {error}", hint=_DAMAGED) from error
    if not isinstance(value, dict):
        raise ResumeError(f"{path} is damaged: it holds no object", hint=_DAMAGED)
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace `path` by `value` as indented JSON, secrets hidden; NaN and infinity raise ValueError."""
    write_text(path, json.dumps(REDACTOR.tree(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
