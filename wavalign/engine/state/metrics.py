"""Lines of a run's .jsonl files: appended one by one, cut back to the checkpoint on resume."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, final

from wavalign.engine.state.files import storage_errors
from wavalign.errors import NonFiniteError, ResumeError, StorageError
from wavalign.redaction import REDACTOR

METRICS_NULLABLE = ("reward", "reward_std", "reward/*")
"""Keys that are null where no answer of a step was given a reward."""
ROLLOUTS_NULLABLE = ("reference", "reward", "reward/*")
"""Keys that are null where there is no gold text or no reward."""
EVALUATION_NULLABLE = ("reference",)
"""Keys that are null where there is no gold text."""
BESIDE = ("low", "high", "ceiling", "ceiling_low", "ceiling_high")
"""What stands beside a measured value, under its name: its interval, and what the gold answers have."""
_CHUNK = 1 << 20


@final
class MetricsWriter:
    """Appends JSON lines; each is on its way to the disk when `write` returns.

    JSON has no NaN: it becomes null under a `nullable` key (patterns of `fnmatch`), under a key whose `KEY/count` is 0
    in the same line, and beside one that has such a count: one value has no interval, and gold answers may have none.
    Elsewhere it is an error, as infinity is everywhere.
    """

    def __init__(self, path: Path, *, nullable: tuple[str, ...] = ()) -> None:
        self._path, self._nullable = path, nullable
        with storage_errors(str(path)):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._offset = 0
        self._sum = hashlib.sha256()
        self._add_sum(os.fstat(self._descriptor).st_size)

    @property
    def offset(self) -> int:
        """Bytes written so far; what a checkpoint remembers."""
        return self._offset

    @property
    def sha256(self) -> str:
        """Sum of these bytes."""
        return self._sum.hexdigest()

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one object, secrets hidden.

        Raises NonFiniteError naming the key, and StorageError leaving whole lines only.
        """
        values = REDACTOR.tree({key: self._checked(key, value, line) for key, value in line.items()})
        data = (json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n").encode()
        self._check_there()
        try:
            with storage_errors(str(self._path)):
                written = os.write(self._descriptor, data)
                if written < len(data):
                    # A disk that fills up takes a part first and refuses the rest.
                    os.write(self._descriptor, data[written:])
        except BaseException:
            os.ftruncate(self._descriptor, self._offset)
            raise
        self._offset += len(data)
        self._sum.update(data)

    def rewind(self, offset: int, sha256: str | None = None) -> None:
        """Cut everything after `offset`, which will be computed again, into `NAME.cut-<n>` beside the file.

        Raises ResumeError where what stands before `offset` is not what had the sum `sha256`.
        """
        size = os.fstat(self._descriptor).st_size
        if offset > size:
            raise ResumeError(
                f"{self._path} has {size} bytes but had {offset} when the checkpoint was written",
                hint="the file was changed after the checkpoint; resume from a copy of the folder that is whole",
            )
        self._offset, self._sum = 0, hashlib.sha256()
        self._add_sum(offset)
        if sha256 is not None and self.sha256 != sha256:
            raise ResumeError(
                f"{self._path} was changed: its first {offset} bytes are not what the run wrote",
                hint="resume from a copy of the folder that is whole, or start a new run",
            )
        if offset < size:
            with storage_errors(str(self._path)):
                with self._path.open("rb") as file:
                    file.seek(offset)
                    self._free_name().write_bytes(file.read())
                os.ftruncate(self._descriptor, offset)
                os.fsync(self._descriptor)

    def sync(self) -> None:
        """Make every line survive a power cut; called before a checkpoint remembers `offset`."""
        with storage_errors(str(self._path)):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; harmless when done before."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _add_sum(self, offset: int) -> None:
        """Go on summing the file's bytes up to `offset`."""
        with storage_errors(str(self._path)), self._path.open("rb") as file:
            file.seek(self._offset)
            while self._offset < offset and (chunk := file.read(min(_CHUNK, offset - self._offset))):
                self._sum.update(chunk)
                self._offset += len(chunk)

    def _check_there(self) -> None:
        """Writing to a file that has no name any more succeeds, and is lost."""
        if os.fstat(self._descriptor).st_nlink == 0:
            raise StorageError(
                f"{self._path} was removed while the run wrote to it",
                hint="what the run had written is gone; start a new run, in a folder that stays",
            )

    def _free_name(self) -> Path:
        number = 1
        while (path := self._path.with_name(f"{self._path.name}.cut-{number}")).exists():
            number += 1
        return path

    def _checked(self, key: str, value: Any, line: Mapping[str, Any]) -> Any:
        if not (value is None or (isinstance(value, float) and not math.isfinite(value))):
            return value
        if value is None or math.isnan(value):
            measured, _, beside = key.rpartition("/")
            if line.get(f"{key}/count") == 0 or (beside in BESIDE and f"{measured}/count" in line):
                return None
            if any(fnmatchcase(key, pattern) for pattern in self._nullable):
                return None
        raise NonFiniteError(
            f"{key} is {value} at step {line.get('step')}", hint="nothing was written; the step's numbers broke down"
        )
