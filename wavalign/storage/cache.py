"""Where things that can be made again are kept: the latest in memory, the rest on disk, both of a bounded size."""

import os
import sqlite3
import time
import zlib
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, final

import platformdirs

from wavalign.errors import StorageError

V = TypeVar("V")
LIMIT, DEFAULT_LIMIT = "WAVALIGN_CACHE_GB", 20.0
"""What names the size that each file of the cache may have, in gigabytes, and that size where nothing does."""
_GIGABYTE, _DAY, _AT_ONCE = 10**9, 86_400, 256
PATIENCE = 60.0
"""Seconds that a process waits for others that write."""
_ROOM = 0.9
"""Of the limit what is left where old entries make room."""


def cache_folder() -> Path:
    """`$WAVALIGN_CACHE`, or the user's cache folder."""
    named = os.environ.get("WAVALIGN_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("wavalign"))


def cache_limit() -> int:
    """Bytes that each file of the cache may take; raises StorageError where `$WAVALIGN_CACHE_GB` is no number."""
    named = os.environ.get(LIMIT, "")
    try:
        size = float(named) if named else DEFAULT_LIMIT
    except ValueError:
        size = -1.0
    if not 0 <= size < float("inf"):
        raise StorageError(f"${LIMIT} is {named!r}, not a number of gigabytes", hint=f"e.g. {LIMIT}={DEFAULT_LIMIT:g}")
    return int(size * _GIGABYTE)


@final
class Recent(Generic[V]):
    """The values that were asked for last, up to so many bytes."""

    def __init__(self, most: int) -> None:
        self._most, self._bytes = most, 0
        self._kept: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()

    def get(self, key: Hashable) -> V | None:
        """What is kept under `key`."""
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def put(self, key: Hashable, value: V, *, size: int) -> None:
        """Keep a value of `size` bytes; the newest stays however large it is."""
        self._bytes += size - self._kept.pop(key, (value, 0))[1]
        self._kept[key] = (value, size)
        while self._bytes > self._most and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1][1]

    def __len__(self) -> int:
        return len(self._kept)


@final
@dataclass(slots=True)
class Uses:
    """What a cache on disk was good for in this process."""

    path: Path
    read: int = 0
    """Found in it."""
    made: int = 0
    """Not found, so computed."""
    damaged: int = 0
    """Of these such as were there and were not what had been written."""
    unkept: int = 0
    """Of these such as found no room."""

    def said(self, what: str) -> str:
        """In words."""
        damaged = f"; {self.damaged} of them anew, for their entries were damaged" if self.damaged else ""
        full = f"; {self.unkept} found no room (raise ${LIMIT})" if self.unkept else ""
        return f"{what}: {self.made:,} computed, {self.read:,} read from {self.path}{damaged}{full}"


USES: dict[str, Uses] = {}
"""By what is cached."""


def uses_said() -> list[str]:
    """What the caches of this process were used for since this was asked last, a line each."""
    lines = [uses.said(what) for what, uses in USES.items() if uses.read or uses.made]
    USES.clear()
    return lines


@final
class BlobCache:
    """Bytes by key in one file, safe for several processes; what is lost or damaged is made again.

    An entry knows the day it was last asked for. Where the limit is reached, those of earlier days go, oldest first;
    where all are of today, what is new is not kept: a dataset that is larger than the file keeps what fits.
    """

    def __init__(self, path: Path, *, table: str, column: str, what: str) -> None:
        """Open or make the file; `what` it is a cache of is said in messages. Raises StorageError."""
        self._path, self._what, self._table, self._limit = path, what, table, cache_limit()
        self._read = f"SELECT {column}, sum, day FROM {table} WHERE key = ?"
        self._write = f"INSERT OR REPLACE INTO {table} (key, day, sum, {column}) VALUES (?, ?, ?, ?)"
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
            _share(self._database)
            self._database.execute("PRAGMA synchronous=OFF")  # a lost entry is computed again
            self._prepare(column)

    def get(self, key: str) -> bytes | None:
        """What is kept under `key`; None where nothing is, or no longer what was written."""
        with self._errors():
            row = self._database.execute(self._read, (key,)).fetchone()
            if row is None:
                return None
            value = bytes(row[0] or b"")
            if row[1] != zlib.crc32(value):
                self._uses.damaged += row[1] is not None  # None: of a version that wrote no sums
                return None
            if row[2] != _today():
                self._database.execute(f"UPDATE {self._table} SET day = ? WHERE key = ?", (_today(), key))
        self._uses.read += 1
        return value

    def put(self, key: str, value: bytes) -> None:
        """Keep `value`, which was computed, under `key`, where there is room."""
        uses = self._uses
        uses.made += 1
        with self._errors():
            if self._bytes() + len(value) > self._limit and not self._make_room(len(value)):
                uses.unkept += 1
                return
            self._database.execute(self._write, (key, _today(), zlib.crc32(value), value))

    def close(self) -> None:
        """Free the file."""
        self._database.close()

    @property
    def _uses(self) -> Uses:
        return USES.setdefault(self._what, Uses(self._path))

    def _prepare(self, column: str) -> None:
        """Make the table, or add what that of an earlier version lacks."""
        made = f"(key TEXT PRIMARY KEY, day INTEGER, sum INTEGER, {column} BLOB)"  # the long value last: days are read
        self._database.execute(f"CREATE TABLE IF NOT EXISTS {self._table} {made}")
        there = {row[1] for row in self._database.execute(f"PRAGMA table_info({self._table})")}
        for name in sorted({"day", "sum"} - there):
            try:
                self._database.execute(f"ALTER TABLE {self._table} ADD COLUMN {name} INTEGER")
            except sqlite3.OperationalError as error:
                if "duplicate column" not in str(error):  # another process was first
                    raise
        self._database.execute(f"CREATE INDEX IF NOT EXISTS {self._table}_day ON {self._table}(day)")

    def _bytes(self) -> int:
        """What the entries take."""
        size, count, free = (
            int(self._database.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_size", "page_count", "freelist_count")
        )
        return size * (count - free)

    def _make_room(self, wanted: int) -> bool:
        """Remove entries of earlier days, the oldest first; whether `wanted` bytes then fit."""
        oldest = f"SELECT rowid FROM {self._table} WHERE day IS NULL OR day < ? ORDER BY day LIMIT {_AT_ONCE}"
        remove, found = f"DELETE FROM {self._table} WHERE rowid IN ({oldest})", True
        while found and self._bytes() + wanted > _ROOM * self._limit:
            found = self._database.execute(remove, (_today(),)).rowcount > 0
        return self._bytes() + wanted <= self._limit

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """A full disk or a damaged file as a StorageError that says what may be removed."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            hint = "it can be made again: remove it, free some space, or set WAVALIGN_CACHE to another folder"
            raise StorageError(f"the cache of {self._what} {self._path} cannot be used: {error}", hint=hint) from error


def _share(database: sqlite3.Connection) -> None:
    """Let several processes read and write at once.

    While another process makes the file, SQLite refuses this at once, whatever its timeout: it is asked again.
    """
    end = time.monotonic() + PATIENCE
    while True:
        try:
            database.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.02)


def _today() -> int:
    return int(time.time() // _DAY)
