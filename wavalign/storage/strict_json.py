"""JSON as the standard has it, read in one way wherever a person's file is read.

Python's reader takes more than JSON: NaN and Infinity, half surrogate pairs, a key twice. Each of these would be found
later, somewhere else: when a run writes its log, or not at all.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NoReturn

BOM = b"\xef\xbb\xbf"
WIDE = (b"\xff\xfe", b"\xfe\xff")
MOST_DIGITS = 4000
MOST_LEVELS = 100
_DEEP = f"nested too deeply: more than {MOST_LEVELS} levels of lists and objects"
_HALF = re.compile("[\ud800-\udfff]")


def parse(text: bytes | str) -> Any:
    """The value of one JSON text; raises ValueError that says in words what is wrong."""
    content = decode(text) if isinstance(text, bytes) else text
    try:
        value = json.loads(
            content,
            parse_constant=_no_number,
            parse_float=_finite,
            parse_int=_whole,
            object_pairs_hook=_once,
        )
        wrong = _too_deep(value) or flaw(value)
    except RecursionError:
        value, wrong = None, _DEEP
    if wrong:
        raise ValueError(wrong)
    return value


def decode(text: bytes) -> str:
    """UTF-8 with or without its byte order mark; raises ValueError."""
    if text.startswith(WIDE):
        raise ValueError("UTF-16, not UTF-8: save the file as UTF-8")
    try:
        return text.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{text[error.start]:02x} at {error.start}"
        raise ValueError(f"not UTF-8: {byte}: save the file as UTF-8") from None


def flaw(value: Any, place: str = "") -> str:
    """What keeps a value from being plain JSON, with its place; empty where nothing does."""
    where = f"{place}: " if place else ""
    if value is None or isinstance(value, bool | int):
        return ""
    if isinstance(value, str):
        return f"{where}half a surrogate pair, which is no character" if _HALF.search(value) else ""
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{where}{value} is no number of JSON"
    if isinstance(value, Mapping):
        wrong = [flaw(key, place) if isinstance(key, str) else f"{where}a key is no text" for key in value]
        wrong += [flaw(item, f"{place}.{key}" if place else str(key)) for key, item in value.items()]
        return next((each for each in wrong if each), "")
    if isinstance(value, list | tuple):
        found = (flaw(item, f"{place}.{index}" if place else str(index)) for index, item in enumerate(value))
        return next((each for each in found if each), "")
    return f"{where}{type(value).__name__} is nothing JSON can hold"


def _too_deep(value: Any) -> str:
    """Whether lists and objects stand in each other beyond what the rest of the program may walk through."""
    level = [value]
    for _ in range(MOST_LEVELS + 1):
        level = [
            item
            for each in level
            if isinstance(each, dict | list)
            for item in (each.values() if isinstance(each, dict) else each)
            if isinstance(item, dict | list)
        ]
        if not level:
            return ""
    return _DEEP


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON: leave the field out or write null")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice in one object: keep one")
    return found
