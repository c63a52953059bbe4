"""Problems for people, for other programs and for a code review."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from wavalign.errors import Problem, Where, quoted
from wavalign.redaction import REDACTOR
from wavalign.schema.marks import SET
from wavalign.terminal import presentable, visible

_WIDTH = 120
_BOLD, _RED, _CYAN, _DIM, _PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[36m", "\x1b[2m", "\x1b[0m"


def render_problems(problems: Sequence[Problem], format: str = "text", *, color: bool = False) -> str:  # noqa: A002 - as in `--format`
    """All problems in one text, without a newline at its end.

    `text` shows the offending lines, `github` gives workflow commands that annotate a change, `json` a list of objects
    with `code`, `path`, `message`, `hint`, `file`, `line`, `column`, `text` and `via`.
    """
    if format == "json":
        return json.dumps([_as_object(problem) for problem in problems], indent=2, ensure_ascii=False)
    if format == "github":
        return "\n".join(_as_command(problem) for problem in problems)
    if format != "text":
        raise ValueError(f"no format {format!r}; there are text, json and github")
    paint = _painted if color else _unpainted
    return "\n".join(_as_text(problem, paint) for problem in problems)


def _painted(text: str, style: str) -> str:
    return f"{style}{text}{_PLAIN}" if text else ""


def _unpainted(text: str, style: str) -> str:
    del style
    return text


def _as_text(problem: Problem, paint: Callable[[str, str], str]) -> str:
    where = problem.where
    parts = [
        paint(_printable(str(where)), _BOLD) if where else "",
        paint(_printable(problem.path), _CYAN),
        paint(_printable(problem.message), _RED),
        _printable(problem.hint),
        paint(f"({where.via})", _DIM) if where and where.via.startswith("from ") else "",
    ]
    head = "  ".join(part for part in parts if part)
    return head + (_excerpt(where, paint) if where and where.text.strip() else "")


def _excerpt(where: Where, paint: Callable[[str, str], str]) -> str:
    """The offending line with a caret under the column; a long line is cut to what surrounds it."""
    line = REDACTOR.cover(where.text.expandtabs(1))
    column, text = len(visible(line[: where.column - 1], keep="")), visible(line, keep="")
    start = max(0, column - _WIDTH // 2) if len(text) > _WIDTH else 0
    shown = ("..." if start else "") + text[start : start + _WIDTH] + ("..." if start + _WIDTH < len(text) else "")
    number = "" if where.file == SET else str(where.line)
    caret = " " * (column - start + (3 if start else 0)) + "^"
    gutter = " " * len(number)
    return f"\n  {paint(number + ' |', _DIM)} {shown}\n  {paint(gutter + ' |', _DIM)} {paint(caret, _RED)}"


def _printable(text: str) -> str:
    """`text` without secrets; control characters could repaint the terminal and are written out."""
    return presentable(text, keep="")


def _as_object(problem: Problem) -> dict[str, Any]:
    where = problem.where
    return {
        "code": problem.code,
        "path": problem.path,
        "message": REDACTOR.text(problem.message),
        "hint": REDACTOR.text(problem.hint),
        "file": where.file if where else None,
        "line": where.line if where else None,
        "column": where.column if where else None,
        "text": quoted(REDACTOR.cover(where.text), 4 * _WIDTH) if where else None,
        "via": where.via if where else None,
    }


def _as_command(problem: Problem) -> str:
    """A workflow command, e.g. `::error file=a.yaml,line=3,col=5,title=unknown_key::...`."""
    where = problem.where
    place = [] if where is None or where.file == SET else [f"file={_property(where.file)}"]
    place += [f"line={where.line}", f"col={where.column}"] if where and place else []
    properties = ",".join([*place, f"title={_property(problem.code)}"])
    message = ": ".join(part for part in (problem.path, problem.message) if part)
    message += f" ({problem.hint})" if problem.hint else ""
    return f"::error {properties}::{_data(message)}"


def _data(text: str) -> str:
    text = presentable(text, keep="\r\n")
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
