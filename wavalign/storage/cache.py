"""Where things that can be made again are kept."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import final

import platformdirs

from wavalign.errors import StorageError


def cache_folder() -> Path:
    """`$WAVALIGN_CACHE`, or the user's cache folder."""
    named = os.environ.get("WAVALIGN_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("wavalign"))


@final
class BlobCache:
    """Bytes by key in one file, safe for several processes; what is lost is made again."""

    def __init__(self, path: Path, *, table: str, column: str, what: str) -> None:
        """Open or make the file; `what` it is a cache of is said in messages. Raises StorageError."""
        self._path, self._what = path, what
        self._read = f"SELECT {column} FROM {table} WHERE key = ?"
        self._write = f"INSERT OR REPLACE INTO {table} (key, {column}) VALUES (?, ?)"
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=OFF")  # a lost entry is computed again
            self._database.execute(f"CREATE TABLE IF NOT EXISTS {table} (key TEXT PRIMARY KEY, {column} BLOB)")

    def get(self, key: str) -> bytes | None:
        """What is kept under `key`; None where nothing is."""
        with self._errors():
            row = self._database.execute(self._read, (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def put(self, key: str, value: bytes) -> None:
        """Keep `value` under `key`."""
        with self._errors():
            self._database.execute(self._write, (key, value))

    def close(self) -> None:
        """Free the file."""
        self._database.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """A full disk or a damaged file as a StorageError that says what may be removed."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            hint = "it can be made again: remove it, free some space, or set WAVALIGN_CACHE to another folder"
            raise StorageError(f"the cache of {self._what} {self._path} cannot be used: {error}", hint=hint) from error
