"""Text of others as data in a prompt: nothing in it can be taken for the prompt's own words, marks or tags.

What is judged is written by a policy that is paid for high scores. Three things stand between it and the judge: what
models read as marks of their own is taken out (`<|im_start|>`, `[INST]`, tags, invisible and direction characters),
the rest is a JSON string without angle brackets or line breaks, and the block it stands in ends with a mark that
depends on what is in it: a text that holds its own mark would have to hold its own digest.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

_BRACKETS = str.maketrans({"＜": "<", "＞": ">", "﹤": "<", "﹥": ">", "｜": "|", "［": "[", "］": "]"})
"""Look-alikes that a tokenizer or a reader may take for the plain ones."""
_MARKS = re.compile(
    r"<\|[^<>|]{0,64}\|>"  # <|im_start|>, <|audio_bos|>
    r"|<</?[A-Za-z]{2,12}>>"  # <<SYS>>
    r"|\[/?(?:INST|SYS|SYSTEM|USER|ASSISTANT|TOOL_CALLS|AVAILABLE_TOOLS|TOOL_RESULTS)\]"
    r"|</?[A-Za-z_!?][^<>]{0,200}>"  # any tag
    r"|\b(?:BEGIN|END) DATA [0-9a-f]{8,}\b",
    re.IGNORECASE,
)
_PASSES = 6
"""After so many, a text that nests marks in one another loses its brackets."""
_SPACES = re.compile(r"\s+")
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn")
"""Categories of characters that nobody sees: controls, zero-width and direction marks, halves, private ones."""


@final
@dataclass(frozen=True, slots=True)
class Cleaned:
    """A text without what could be taken for something else."""

    text: str
    taken_out: int
    """Marks and invisible characters that it held."""
    characters: int
    """Of the whole text, before it was cut."""


def cleaned(text: str, most: int) -> Cleaned:
    """`text` without marks and invisible characters, on one line, cut at `most` characters."""
    seen = _visible(text.translate(_BRACKETS))
    taken = len(text) - len(seen)
    for _ in range(_PASSES):  # what is left may form a new one: `<|im_<|x|>start|>`
        seen, marks = _MARKS.subn(" ", seen)
        taken += marks
    if _MARKS.search(seen):
        seen, marks = re.subn(r"[<>\[\]]", " ", seen)
        taken += marks
    whole = _SPACES.sub(" ", seen).strip()
    return Cleaned(whole[:most], taken, len(whole))


def _visible(text: str) -> str:
    spaced = (" " if character in "\t\n\r\v\f\x85\u2028\u2029" else character for character in text)
    return "".join(character for character in spaced if unicodedata.category(character) not in _HIDDEN)


def quoted_json(value: object) -> str:
    """`value` as JSON in which no angle bracket stands."""
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e")


def data_block(entries: Sequence[Mapping[str, object]]) -> str:
    """Entries, one JSON object a line, between two marks that depend on all of them."""
    lines = [quoted_json(dict(each)) for each in entries]
    mark = hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:24]
    return "\n".join([f"BEGIN DATA {mark}", *lines, f"END DATA {mark}"])
