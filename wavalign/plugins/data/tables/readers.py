"""Rows of files from front to back, from any position on: JSON lines, JSON lists, Parquet and Arrow.

What a row holds comes as plain lists, mappings and text. Sound inside a table comes as the address of its cell.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, final

import fsspec

from wavalign.errors import DataError
from wavalign.plugins.api import StreamPosition
from wavalign.plugins.data.tables.layout import Complaints
from wavalign.storage.arrow import cell_address, group_starts, is_arrow, open_arrow, open_parquet, pyarrow, read_group
from wavalign.storage.strict_json import parse

LINES = (".jsonl", ".jsonl.gz", ".ndjson")
LISTS = (".json",)
TABLES = (".parquet", ".arrow")
AT_ONCE = 256
"""Rows of a table that are turned into plain values together."""


LONGEST_LINE = 4 << 20
"""Bytes of one record: a dialogue of any length has kilobytes."""
LONGEST_LIST = 512 << 20
"""Bytes of a .json file."""


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One row and where it stands."""

    start: StreamPosition
    end: StreamPosition
    """Where the next one begins."""
    where: str
    """`FILE:LINE`, or `FILE:row NUMBER` counted from 0."""
    name: str
    """What it is called inside its file, e.g. `line-3`."""
    tree: Any
    """Its content, or Complaints where it has none."""


def read_rows(
    url: str, position: StreamPosition, columns: Sequence[str] | None, *, structure: Sequence[str] | None = None
) -> Iterator[Row]:
    """Rows of the file from `position` on; raises DataError where the file as a whole cannot be read.

    `structure` names the columns a table may have, the first of which it must.
    """
    if url.endswith(LISTS):
        return _list_rows(url, position)
    if is_arrow(url):
        return _arrow_rows(url, position, columns, structure)
    return _parquet_rows(url, position, columns, structure) if url.endswith(TABLES) else _line_rows(url, position)


# --- JSON -------------------------------------------------------------------------------------------------------------


def _line_rows(url: str, position: StreamPosition) -> Iterator[Row]:
    """A position is (byte, lines before it); line ends are `\\n`."""
    byte, number = position or (0, 0)
    with _opened(url) as file:
        if byte:
            file.seek(byte)
        while line := _next_line(file, url):
            start, size = (byte, number), len(line)
            whole = size <= LONGEST_LINE or (size == LONGEST_LINE + 1 and line.endswith(b"\n"))
            while not (whole or line.endswith(b"\n")) and (line := _next_line(file, url)):
                size += len(line)  # how long it is is all that counts now
            byte, number = byte + size, number + 1
            tree = _parsed(line.removesuffix(b"\n")) if whole else _too_long(size)
            yield Row(start, (byte, number), f"{url}:{number}", f"line-{number}", tree)


def _too_long(size: int) -> Complaints:
    message = f"the line has {size:,} bytes, more than the {LONGEST_LINE:,} a record may have"
    return Complaints(
        (message,), "keep sound in files of its own, and in the record what a dialogue and its rewards need"
    )


def _opened(url: str) -> IO[bytes]:
    try:
        opened: IO[bytes] = fsspec.open(url, "rb", compression="infer").open()
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{url}: the data file cannot be opened: {error}", hint="check the path") from error
    return opened


def _next_line(file: IO[bytes], url: str) -> bytes:
    try:
        return file.readline(LONGEST_LINE + 1)
    except (OSError, EOFError, ValueError) as error:
        hint = "is the copy complete?"
        raise DataError(f"{url}: the data file cannot be read to its end: {error}", hint=hint) from error


def _parsed(line: bytes) -> Any:
    try:
        return parse(line)
    except json.JSONDecodeError as error:
        hint = "the line may be cut short or empty; one object a line, nothing between"
        return Complaints((f"not a JSON object: {error}",), hint)
    except ValueError as error:
        return Complaints((str(error),), "correct the line, or write it again with a JSON library")


def _list_rows(url: str, position: StreamPosition) -> Iterator[Row]:
    """One JSON list; a position is (record,). The file is read whole."""
    with _opened(url) as file:
        try:
            text = file.read(LONGEST_LIST + 1)
            if len(text) > LONGEST_LIST:
                hint = "a list is read whole: write a record a line, as .jsonl"
                raise DataError(f"{url}: the file has more than {LONGEST_LIST >> 20} MiB", hint=hint)
            content = parse(text)
        except (OSError, EOFError, ValueError) as error:
            raise DataError(f"{url}: not a JSON file: {error}", hint="is the copy complete?") from error
    if not isinstance(content, list):
        hint = "a .json file holds a list of records; a record a line belongs in a .jsonl file"
        raise DataError(f"{url}: not a list of records", hint=hint)
    first = position[0] if position else 0
    for number in range(first, len(content)):
        yield Row((number,), (number + 1,), f"{url}:record {number}", f"record-{number}", content[number])


# --- tables -----------------------------------------------------------------------------------------------------------


def _arrow_rows(
    url: str, position: StreamPosition, columns: Sequence[str] | None, structure: Sequence[str] | None
) -> Iterator[Row]:
    """A position is (row,). Cells of sound are looked at for being there only: the file is mapped, not read."""
    table = open_arrow(url)
    _check_structure(url, table.schema.names, structure)
    table = table.select(_wanted(url, table.schema.names, columns))
    first = position[0] if position else 0
    yield from _table_rows(url, table.slice(first), first, frozenset())


def _parquet_rows(
    url: str, position: StreamPosition, columns: Sequence[str] | None, structure: Sequence[str] | None
) -> Iterator[Row]:
    """A position is (row,). One row group at a time, without the sound where its statistics say that it is complete."""
    file = open_parquet(url)
    _check_structure(url, file.schema_arrow.names, structure)
    names = _wanted(url, file.schema_arrow.names, columns)
    first, starts = position[0] if position else 0, group_starts(file)
    for group in range(len(starts) - 1):
        if starts[group + 1] <= first:
            continue
        complete = _complete_sound(file.metadata.row_group(group), file.schema_arrow) & set(names)
        begin = max(first, starts[group])
        rest = [name for name in names if name not in complete]
        if rest:
            table = read_group(url, file, group, rest).slice(begin - starts[group])
            yield from _table_rows(url, table, begin, complete)
        else:
            for row in range(begin, starts[group + 1]):
                yield _row(url, row, {name: cell_address(url, row, (name,)) for name in complete})


def _check_structure(url: str, there: Sequence[str], structure: Sequence[str] | None) -> None:
    """Say once for the file, not once for every row, that its columns are others."""
    if structure is None or (structure[0] in there and set(there) <= set(structure)):
        return
    others = [name for name in there if name not in structure]
    wrong = f"has no column {structure[0]!r}" if structure[0] not in there else f"has further columns {others}"
    message = f"{url}: the table {wrong}; its columns: {', '.join(there)}"
    raise DataError(message, hint="say what they mean with `columns:`, e.g. {text: question, target_text: answer}")


def _wanted(url: str, there: Sequence[str], columns: Sequence[str] | None) -> list[str]:
    missing = sorted(set(columns or ()) - set(there))
    if missing:
        message = f"{url}: no column {', '.join(repr(name) for name in missing)}"
        raise DataError(message, hint=f"its columns: {', '.join(there)}; map them with `columns:`")
    return [name for name in there if columns is None or name in columns]


def _complete_sound(group: Any, schema: Any) -> set[str]:
    """Columns of a row group whose every cell is known to hold bytes."""
    found = set()
    for index in range(group.num_columns):
        column = group.column(index)
        name = column.path_in_schema.removesuffix(".bytes")
        if name not in schema.names:
            continue
        kind = schema.field(name).type
        holds_bytes = _is_binary(kind) or (_is_sound(kind) and column.path_in_schema.endswith(".bytes"))
        # Only then: pyarrow ends the process on statistics of numbers whose bytes are damaged.
        statistics = column.statistics if holds_bytes and column.physical_type == "BYTE_ARRAY" else None
        if statistics is not None and statistics.has_null_count and statistics.null_count == 0:
            found.add(name)
    return found


def _table_rows(url: str, table: Any, first: int, complete: frozenset[str] | set[str]) -> Iterator[Row]:
    """Rows of a pyarrow Table whose first row is row `first` of the file."""
    for offset in range(0, table.num_rows, AT_ONCE):
        piece = table.slice(offset, AT_ONCE)
        begin = first + offset
        values = {name: _values(url, piece.column(name), begin, name) for name in piece.schema.names}
        for index in range(piece.num_rows):
            row = begin + index
            tree = {name: column[index] for name, column in values.items()}
            yield _row(url, row, tree | {name: cell_address(url, row, (name,)) for name in complete})


def _row(url: str, row: int, tree: dict[str, Any]) -> Row:
    return Row((row,), (row + 1,), f"{url}:row {row}", f"row-{row}", tree)


def _values(url: str, column: Any, begin: int, name: str) -> list[Any]:
    """A column's values; where there is sound its address, where there is none its path or None."""
    if _is_binary(column.type):
        there = column.is_valid().to_pylist()
        return [cell_address(url, begin + i, (name,)) if found else None for i, found in enumerate(there)]
    if _is_sound(column.type):
        compute = pyarrow("pyarrow.compute")
        there = compute.struct_field(column, "bytes").is_valid().to_pylist()
        paths = compute.struct_field(column, "path").to_pylist()
        return [
            cell_address(url, begin + i, (name,)) if found else path
            for i, (found, path) in enumerate(zip(there, paths, strict=True))
        ]
    values: list[Any] = column.to_pylist()
    if not pyarrow().types.is_nested(column.type):
        return values
    return [_addressed(url, begin + i, (name,), value) for i, value in enumerate(values)]


def _addressed(url: str, row: int, path: tuple[str | int, ...], value: Any) -> Any:
    """`value` with addresses in the place of bytes."""
    if isinstance(value, bytes):
        return cell_address(url, row, path)
    if isinstance(value, list):
        return [_addressed(url, row, (*path, index), item) for index, item in enumerate(value)]
    if isinstance(value, dict):
        if value.keys() >= {"bytes", "path"}:
            return cell_address(url, row, path) if value["bytes"] is not None else value["path"]
        return {key: _addressed(url, row, (*path, key), item) for key, item in value.items()}
    return value


def _is_binary(kind: Any) -> bool:
    types = pyarrow().types
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_sound(kind: Any) -> bool:
    """Whether it is the structure {bytes, path} of a Hugging Face audio column."""
    return bool(pyarrow().types.is_struct(kind)) and {"bytes", "path"} <= {
        kind.field(i).name for i in range(kind.num_fields)
    }
