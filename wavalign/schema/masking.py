"""Lines of a recipe as messages may show them: what stands under a key that names a secret is covered.

It works on lines and not on the parsed tree, because a file that cannot be parsed is shown too. Columns stay.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from wavalign.redaction import REDACTOR, hide_patterns, names_secret

_KEY = re.compile(
    r"""(?<![A-Za-z_])(?P<quote>["']?)(?P<name>[A-Za-z_][\w.-]{0,200})(?P=quote)\s*[:=](?=\s|["'{\[|>]|\Z|(?<==))\s*"""
)
_PLACEHOLDER = re.compile(r"""["']?\$\{env:[A-Za-z_][A-Za-z0-9_]*\}["']?\s*(?:[,}\]#]|\Z)""")
_COVER = "*"


@final
@dataclass(slots=True)
class _Open:
    """A secret that goes on over further lines."""

    indent: int
    """Of its key: what stands deeper belongs to it."""
    quote: str = ""
    """That of a text which was not closed."""


def masked(lines: Sequence[str]) -> list[str]:
    """The lines of a recipe, or the one of an override, without the secrets that are spelt out in them."""
    return list(_masked(lines))


def _masked(lines: Sequence[str]) -> Iterator[str]:
    going_on: _Open | None = None
    for line in lines:
        start = 0
        if going_on is not None:
            if going_on.quote:
                end = _closing(line, 0, going_on.quote)
                start, going_on = (len(line), going_on) if end is None else (end, None)
            elif not line.strip() or _indent(line) > going_on.indent or _is_entry(line, going_on.indent):
                start = len(line)
            else:
                going_on = None
        covered = _covered(line, 0, start)
        if start < len(line):
            covered, opened = _keys(covered, start)
            going_on = opened if opened is not None else going_on
        yield hide_patterns(REDACTOR.cover(covered), lambda part: _COVER * len(part))


def _keys(line: str, start: int) -> tuple[str, _Open | None]:
    """`line` with the values of its secrets covered, and the secret that its end leaves open."""
    for match in _KEY.finditer(line, start):
        if match.start() < start or not names_secret(match["name"].rpartition(".")[2]):
            continue
        begin = match.end()
        if _PLACEHOLDER.match(line, begin):
            continue
        rest = line[begin:]
        if rest[:1] in ("'", '"'):
            end = _closing(line, begin + 1, rest[0])
            if end is None:
                return _covered(line, begin, len(line)), _Open(_indent(line), rest[0])
        elif re.search(r"[{\[]", line[: match.start()]) and rest[:1] not in ("{", "["):
            stop = re.search(r"[,}\]]", rest)
            end = begin + stop.start() if stop else len(line)
        else:
            end = len(line)
        line, start = _covered(line, begin, end), end
        if end == len(line):
            return line, _Open(_key_column(line, match.start()))
    return line, None


def _covered(line: str, start: int, end: int) -> str:
    """Every character between two columns that is not blank, covered."""
    return line[:start] + re.sub(r"\S", _COVER, line[start:end]) + line[end:]


def _closing(line: str, start: int, quote: str) -> int | None:
    """The column behind the closing quote, None where the text goes on."""
    pattern = r'(?:[^"\\]|\\.)*"' if quote == '"' else r"(?:[^']|'')*'"
    match = re.compile(pattern).match(line, start)
    return match.end() if match else None


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _key_column(line: str, start: int) -> int:
    """Where a key of block style stands: behind the dashes of the list it may begin an entry of."""
    return start if not line[:start].strip(" \t-#") else _indent(line)


def _is_entry(line: str, indent: int) -> bool:
    """Whether a line is an entry of a list under a key that stands at the same column."""
    return _indent(line) == indent and line.lstrip().startswith("- ")
