"""How commands speak: tables and colour to a terminal, plain lines to a pipe, one object to a program.

Results go to standard output, everything about the command itself to standard error. `NO_COLOR` and the terminal's
width are respected.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import IO, Any, TextIO, final

import typer

from wavalign.redaction import REDACTOR
from wavalign.terminal import bare, presentable, visible


@final
class Format(StrEnum):
    """Whom the output is for."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


output_format: ContextVar[Format] = ContextVar("output_format", default=Format.TEXT)
"""Set by a command that has `--format`, so that its errors come in the same form."""


def is_coloured(stream: IO[str]) -> bool:
    """Whether `stream` takes colours: a terminal, and nobody asked for none."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _put(text: str, stream: TextIO) -> None:
    """Write what was made presentable, as it is: looked at as a whole once more, JSON might not stay JSON."""
    typer.echo(text, file=bare(stream))


def say(text: str) -> None:
    """Print a result; secrets in it are hidden, control characters written out."""
    _put(presentable(text), sys.stdout)


def say_painted(text: str) -> None:
    """Print a result with colours of ours in it, whose other parts were made presentable before."""
    _put(text, sys.stdout)


def note(text: str) -> None:
    """Print something about the command: not a result."""
    _put(presentable(text), sys.stderr)


def note_painted(text: str) -> None:
    """Print a note with colours of ours in it, whose other parts were made presentable before."""
    _put(text, sys.stderr)


@contextmanager
def status(text: str) -> Iterator[None]:
    """Say on a terminal, at once, what takes a moment; the line goes away again. Nothing goes to a pipe."""
    shown = sys.stderr.isatty() and output_format.get() is Format.TEXT and os.environ.get("TERM") != "dumb"
    if shown:
        sys.stderr.write(f"{presentable(text, keep='')} ...")
        sys.stderr.flush()
    try:
        yield
    finally:
        if shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def complain(message: str) -> None:
    """Print what went wrong."""
    word = typer.style("error:", fg="red", bold=True) if is_coloured(sys.stderr) else "error:"
    _put(f"{word} {presentable(message)}", sys.stderr)


def say_json(value: Any) -> None:
    """Print one JSON value."""
    _put(visible(json.dumps(REDACTOR.tree(value), indent=2, ensure_ascii=False)), sys.stdout)


def say_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows: as a table on a terminal, as aligned columns without borders, header or wrapping in a pipe."""
    rows = [[presentable(cell, keep="") for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for line in aligned(rows):
            _put(line, sys.stdout)
        return
    from rich import box  # `--help` shall not wait for it
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*header, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: square brackets in a cell are no markup
    Console().print(table)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, every column but the last padded to its widest cell, two blanks between."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
