"""How written and heard answers are compared: by plain words, and by the one that carries the answer."""

import re

_NOT_A_WORD = re.compile(r"[^\w']+")


def plain(text: str) -> str:
    """Lower-case words of `text`, single spaces, no punctuation."""
    return " ".join(_NOT_A_WORD.sub(" ", text.lower()).split())


def content_word(text: str) -> str:
    """The word that carries the answer, the last one; empty for no words.

    A template's other words are heard in any answer: scored, they would give half the credit to a wrong one.
    """
    words = plain(text).split()
    return words[-1] if words else ""
