"""What makes an answer worth an ear: reasons that need no ear to find, from what was written, measured and heard.

Metrics whose values begin with `text` judge what is written, those that begin with `heard` what is heard; the detail
`heard` is a transcript of the sound.
"""

import re
from collections.abc import Mapping, Sequence

from wavalign.plugins.api import Detail

MOST_DIFFERENT = 0.5
"""Word errors per written word from which a transcript is another text."""
_WORDS_AGAIN = re.compile(r"\b(\w+(?:\W+\w+){0,5}?)(?:\W+\1\b){2,}", re.IGNORECASE)
"""Up to six words, three times in a row."""
_LETTERS_AGAIN = re.compile(r"([^\W\d_]{2,12}?)\1{3,}", re.IGNORECASE)
"""A few letters, four times in a row: writing without blanks, or a decoder in a loop. A number may repeat digits."""
LONGEST, MOST_WORDS = 4000, 400
"""Characters searched for repetition and words compared with a transcript: what is odd shows early."""


def suspicions(
    text: str,
    *,
    finished: bool | None,
    values: Mapping[str, float | None],
    details: Mapping[str, Detail],
    reference: str | None = None,
) -> list[str]:
    """Reasons to listen to an answer, in words; empty for none. Where the reference has no words none are owed."""
    found = []
    if finished is False:
        found.append("cut off")
    if not text.strip() and not is_wordless(reference):
        found.append("no text")
    if repeats(text):
        found.append("repeats itself")
    written = [value for name, value in values.items() if name.startswith("text") and "/" not in name]
    audible = [value for name, value in values.items() if name.startswith("heard") and "/" not in name]
    heard = details.get("heard")
    if 1.0 in written and 0.0 in audible:
        found.append("text right, heard wrong")
    elif (
        isinstance(heard, str)
        and text.strip()
        and word_errors(heard.split()[:MOST_WORDS], text.split()[:MOST_WORDS]) > MOST_DIFFERENT
    ):
        found.append("heard differs from the text" if heard.strip() else "nothing is heard")
    return found


def is_wordless(reference: str | None) -> bool:
    """Whether the right answer is sound alone."""
    return reference is not None and not reference.strip()


def repeats(text: str) -> bool:
    """Whether words, or letters without blanks, come again and again in a row."""
    shown = text[:LONGEST]
    return bool(_WORDS_AGAIN.search(shown) or _LETTERS_AGAIN.search(shown))


def word_errors(said: Sequence[str], wanted: Sequence[str]) -> float:
    """Word errors (substitutions, insertions, deletions) of `said` per word of `wanted`, without regard to case."""
    left, right = [word.casefold() for word in said], [word.casefold() for word in wanted]
    row = list(range(len(right) + 1))
    for i, word in enumerate(left, start=1):
        before, row[0] = row[0], i
        for j, other in enumerate(right, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1] / max(1, len(right))
