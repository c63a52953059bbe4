"""What every reader of a run's files does with values that may be anything."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wavalign.redaction import REDACTOR

Json = Mapping[str, Any]
"""An object of a file the engine wrote; keys as in the file."""
_MOST = 10**15
"""No run has as many steps, stages or items."""


def read_object(path: Path, notes: list[str]) -> Json:
    """The object in a file; empty, with a note, where there is none."""
    if not path.is_file():
        notes.append(f"{path.name} is not there.")
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"{path.name} cannot be read: {error}.")
        return {}
    if not isinstance(value, dict):
        notes.append(f"{path.name} does not hold an object.")
        return {}
    return dict(REDACTOR.tree(value))


def objects_in(found: object, what: str, notes: list[str]) -> list[Json]:
    """The objects of a list; what is none is left out, with a note where `what` is said."""
    items = found if isinstance(found, list) else []
    objects: list[Json] = [each for each in items if isinstance(each, dict)]
    if what and (not isinstance(found, list | None) or len(objects) < len(items)):
        notes.append(f"{what} are no list of objects; what is none was left out.")
    return objects


def whole(value: object) -> int | None:
    """`value` where it is a whole number that can be meant."""
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MOST else None
