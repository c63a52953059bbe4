"""Rows as lines: one position a line, in colour on a terminal, letters for roles everywhere."""

import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from wavalign.terminal import presentable

from .console import aligned, is_coloured, say, say_painted

if TYPE_CHECKING:
    from wavalign.engine.run.preview import RowView, StreamView, TermView, TokenView

LETTERS = {
    "pad": ".", "prompt": "P", "text": "T", "text_end": "E", "audio": "A", "audio_mark": "M", "forced": "F",
}  # fmt: skip
COLOURS = {"text": "bright_blue", "text_end": "blue", "audio": "yellow", "audio_mark": "magenta", "forced": "red"}
"""Those of the token kinds in the live view and the report; what is not learned from is dim."""
LONG = 12
"""Codes and marks of one kind in a row, from which the inner ones are left out."""
KEPT = 3
"""How many stay at each end."""


def show_rows(rows: Sequence["RowView"], *, every: bool) -> None:
    """Print rows; `every` leaves no position out."""
    colour = is_coloured(sys.stdout)
    legend = "  ".join(_painted(f"{letter} {role}", role, colour) for role, letter in LETTERS.items() if role != "pad")
    say_painted(legend)
    for row in rows:
        say("")
        _row(row, colour, every=every)


def _row(row: "RowView", colour: bool, *, every: bool) -> None:
    target = f" + {row.target_length} of the target" if row.target_length is not None else ", no target"
    say(f"{row.heading}: {_quoted(row.dialogue)[1:-1]}: {row.prompt_length} positions of the prompt{target}")
    for role, text, sound in row.messages:
        say(f"  {role}: {_quoted(text)}" + (f"  {_quoted(sound)[1:-1]}" if sound else ""))
    for start, length in row.heard:
        say(f"  heard as features: positions {start} to {start + length - 1}")
    names = [term.name for term in row.terms]
    for stream in row.streams:
        say(f"  stream {stream.name}")
        shown = list(_shortened(stream, every=every))
        lines = aligned([_cells(token, names) for token in shown if token is not None])
        texts = iter(lines)
        left_out = _gaps(shown)
        for index, token in enumerate(shown):
            if token is None:
                say(f"    ... {left_out[index]} more like these (--all)")
            else:
                say_painted("    " + _painted(next(texts), token.role, colour))
    for term in row.terms:
        say(f"  {_summary(term)}")


def _cells(token: "TokenView", terms: Sequence[str]) -> list[str]:
    weights = [f"{name} {token.weights[name]:g}" if name in token.weights else "" for name in terms]
    return [f"{token.position:>4}", LETTERS[token.role], f"{token.id:>6}", _quoted(token.text), *weights]


def _shortened(stream: "StreamView", *, every: bool) -> Iterator["TokenView | None"]:
    """Tokens, with None in the place of the inner ones of a long run of codes."""
    run: list[TokenView] = []
    for token in stream.tokens:
        if run and _kind(run[-1]) != _kind(token):
            yield from _ends(run, every=every)
            run = []
        run.append(token)
    yield from _ends(run, every=every)


def _ends(run: "Sequence[TokenView]", *, every: bool) -> "list[TokenView | None]":
    if every or len(run) < LONG or not _is_named(run[0]):
        return list(run)
    return [*run[:KEPT], None, *run[-KEPT:]]


def _kind(token: "TokenView") -> tuple[str, bool, tuple[tuple[str, float], ...]]:
    return token.role, _is_named(token), tuple(token.weights.items())


def _is_named(token: "TokenView") -> bool:
    """Whether it is a code or a mark, no text."""
    return token.text.startswith("<") and token.text.endswith(">")


def _gaps(shown: "Sequence[TokenView | None]") -> dict[int, int]:
    """How many tokens each None stands for."""
    found = {}
    for index, token in enumerate(shown):
        if token is None:
            before, after = shown[index - 1], shown[index + 1]
            assert before is not None and after is not None
            found[index] = after.position - before.position - 1
    return found


def _summary(term: "TermView") -> str:
    count = sum(term.positions.values())
    if not count:
        return f"term {term.name}: weighs nothing in this row"
    parts = ", ".join(f"{role} {number}" for role, number in term.positions.items())
    return f"term {term.name}: {count} positions with weight ({parts}), {term.weight:g} in all"


def _painted(text: str, role: str, colour: bool) -> str:
    text = presentable(text, keep="")
    if not colour:
        return text
    return typer.style(text, fg=COLOURS[role]) if role in COLOURS else typer.style(text, dim=True)


def _quoted(text: str) -> str:
    """In quotes, control codes spelled out."""
    shown = "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)
    return f'"{shown}"'
