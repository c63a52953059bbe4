"""Errors as a person, a program or a code review shows them."""

import json
import sys

from wavalign.crash_log import keep_traceback
from wavalign.errors import Interrupted, PluginError, RecipeError, WavAlignError
from wavalign.terminal import presentable

from .console import Format, complain, is_coloured, note, note_painted, output_format, say, say_json


def show_error(error: WavAlignError) -> None:
    """Print an error with its hint, in the format that was asked for."""
    form = output_format.get()
    if isinstance(error, PluginError):
        error.keep_traceback()
    if isinstance(error, RecipeError):
        _show_problems(error, form)
    elif form is Format.JSON:
        say_json({"ok": False, "error": _as_object(error)})
    elif form is Format.GITHUB:
        say(f"::error title={error.code}::{_escaped(presentable(_joined(error.message, error.hint)))}")
    else:
        complain(error.message)
        if error.hint:
            note(f"  hint: {error.hint}")


def show_interrupted(stop: Interrupted) -> None:
    """Say where the run can be continued from."""
    lost = f"; {stop.lost} step{'s' * (stop.lost != 1)} after it are lost" if stop.lost else ""
    if stop.checkpoint:
        note(f"interrupted; newest checkpoint: {stop.checkpoint}{lost}")
        note("  hint: the same command with --resume goes on from there")
    elif stop.lost:
        note(f"interrupted; no checkpoint was written: {stop.lost} step{'s' * (stop.lost != 1)} are lost")
    else:
        note("interrupted; no step was complete, nothing to resume")


def show_crash(error: Exception) -> None:
    """Print one line about a fault of WavAlign itself; the traceback goes to a file."""
    path = keep_traceback(error)
    place = f"the traceback is in {path}" if path is not None else "there was no place for its traceback"
    said = f"{type(error).__name__}: {error}"
    form = output_format.get()
    if form is Format.JSON:
        say_json({"ok": False, "error": {"code": "crash", "message": said, "hint": place}})
    elif form is Format.GITHUB:
        say(f"::error title=crash::{_escaped(presentable(_joined(said, place)))}")
    else:
        complain(said)
        note(f"  this is a fault in WavAlign or one of its parts, not in the recipe; {place}")


def _show_problems(error: RecipeError, form: Format) -> None:
    from wavalign.schema.rendering import render_problems  # `--help` shall not wait for pydantic

    if form is Format.JSON:
        problems = json.loads(render_problems(error.problems, format="json"))
        say_json({"ok": False, "error": _as_object(error), "problems": problems})
    elif form is Format.GITHUB:
        say(render_problems(error.problems, format="github"))
    else:
        note_painted(render_problems(error.problems, color=is_coloured(sys.stderr)))
        complain(error.message)


def _as_object(error: WavAlignError) -> dict[str, str]:
    return {"code": error.code, "message": error.message, "hint": error.hint}


def _joined(message: str, hint: str) -> str:
    return f"{message}\nhint: {hint}" if hint else message


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
