"""Parquet and Arrow files, and sound that lies in their cells.

The address of a cell, `cell://ROW/COLUMN[/KEY...]@FILE`, stands wherever that of a sound file may: a dataset with its
sound inside is read a cell at a time and never lies in memory. Rows count from 0; names are percent-encoded.
pyarrow is an extra: it is imported when the first such file is opened.
"""

import importlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

import fsspec

from wavalign.errors import DataError, PluginError

SCHEME = "cell://"
KEPT_COLUMNS = 4
"""Columns of row groups that stay in memory: two columns of sound, read in turn, of two row groups."""
_UNREADABLE = (OSError, ValueError, ImportError, NotImplementedError)
"""What pyarrow and fsspec raise on a missing, torn or foreign file."""


def pyarrow(name: str = "pyarrow") -> Any:
    """The package, or one of its modules; raises PluginError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PluginError(
            "Parquet and Arrow files need the package pyarrow, which is not installed",
            hint='pip install "wavalign[data]"',
        ) from error


def is_arrow(url: str) -> bool:
    """Whether `url` names an Arrow file, as `save_to_disk` writes them; anything else is taken for Parquet."""
    return url.endswith(".arrow")


def open_parquet(url: str) -> Any:
    """The pyarrow ParquetFile at `url`; raises DataError."""
    parquet = pyarrow("pyarrow.parquet")
    try:
        system, path = fsspec.core.url_to_fs(url)
        return parquet.ParquetFile(system.open(path, "rb"))
    except _UNREADABLE as error:
        raise _unreadable(url, "Parquet", error) from error


@lru_cache(maxsize=16)
def open_arrow(path: str) -> Any:
    """The pyarrow Table of an Arrow file, mapped into memory, not read; raises DataError."""
    arrow = pyarrow()
    plain = path.removeprefix("file://")
    if "://" in plain:
        raise DataError(
            f"{path}: an Arrow file is mapped into memory and must lie on a disk of this machine",
            hint="copy the folder here, or save the data as Parquet, which is read from anywhere",
        )
    try:
        mapped = arrow.memory_map(plain)
        try:
            return arrow.ipc.open_stream(mapped).read_all()
        except arrow.ArrowInvalid:
            return arrow.ipc.open_file(mapped).read_all()
    except _UNREADABLE as error:
        raise _unreadable(path, "Arrow", error) from error


def read_group(url: str, file: Any, group: int, columns: Sequence[str]) -> Any:
    """Columns of one row group of an open ParquetFile as a pyarrow Table; raises DataError."""
    try:
        return file.read_row_group(group, columns=list(columns))
    except _UNREADABLE as error:
        raise _unreadable(url, "Parquet", error) from error


def group_starts(file: Any) -> list[int]:
    """First row of each row group of an open ParquetFile, and the number of rows."""
    starts = [0]
    for group in range(file.metadata.num_row_groups):
        starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
    return starts


def cell_address(url: str, row: int, path: Sequence[str | int]) -> str:
    """Address of the bytes at `path` (column, then keys and indices) of a row."""
    return f"{SCHEME}{row}/{'/'.join(quote(str(part), safe='') for part in path)}@{url}"


def read_cell(address: str) -> bytes:
    """The bytes at a cell's address; raises DataError where there is no such cell."""
    place, _, url = address.removeprefix(SCHEME).partition("@")
    number, column, *keys = [unquote(part) for part in place.split("/")]
    row = int(number)
    try:
        if is_arrow(url):
            value: Any = open_arrow(url).column(column)[row].as_py()
        else:
            group, first = _group_of(url, row)
            value = _column(url, group, column)[row - first].as_py()
        for key in keys:
            value = value[int(key) if isinstance(value, list) else key]
    except (LookupError, ValueError, TypeError) as error:
        message = f"{address}: the file has no such cell: {error}"
        raise DataError(message, hint="has the file changed since it was opened?") from error
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise DataError(f"{address}: the cell holds no sound", hint="has the file changed since it was opened?")
    return content


def _group_of(url: str, row: int) -> tuple[int, int]:
    """The row group that holds a row, and its first row."""
    starts = _starts(url)
    for group in range(len(starts) - 1):
        if starts[group] <= row < starts[group + 1]:
            return group, starts[group]
    raise IndexError(f"row {row} of {starts[-1]}")


@lru_cache(maxsize=1024)
def _starts(url: str) -> tuple[int, ...]:
    return tuple(group_starts(open_parquet(url)))


@lru_cache(maxsize=KEPT_COLUMNS)
def _column(url: str, group: int, column: str) -> Any:
    return read_group(url, open_parquet(url), group, [column]).column(column)


def _unreadable(url: str, what: str, error: Exception) -> DataError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    message = f"{url}: cannot be read as {what}: {reason}"
    return DataError(message, hint="check the path; a copy cut short must be fetched again")
