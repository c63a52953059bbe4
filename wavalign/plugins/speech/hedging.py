"""Does an answer say more than one thing? Hedges, denials, other numbers, and named alternatives.

A text that says the right answer may say others too: a list of all there are, `twelve or thirteen`, `twelve is wrong`.
These are looked for word by word, in English and the few words of other languages that stand here. Numbers count as
other answers where the right one is a number, unless the question has them: `five plus seven is twelve` says one thing.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction

from wavalign.plugins.speech.wording import tokens

_HEDGES = frozenset({
    "or", "either", "maybe", "perhaps", "possibly", "might", "could", "alternatively", "unsure",
    "oder", "vielleicht", "ou", "quizás", "quizá",
})  # fmt: skip
_UNSPACED_HEDGES = ("或", "还是", "還是", "也许", "也許", "または", "あるいは", "かもしれ")
_DENIALS = frozenset({"wrong", "false", "incorrect", "untrue", "falsch", "faux", "falso"})


def says_more(text: str, reference: str, question: str) -> bool:
    """Whether `text`, which says `reference`, offers another answer beside it or takes it back."""
    said, wanted = tokens(text), tokens(reference)
    if _doubts(text, said) > _doubts(reference, wanted):
        return True
    return bool(_numbers(wanted)) and not _numbers(said) <= _numbers(wanted) | _numbers(tokens(question))


def says_any(text: str, others: Iterable[str]) -> bool:
    """Whether `text` says one of `others`, as whole words."""
    said = tokens(text)
    return any(_within(said, tokens(other)) for other in others)


def _doubts(text: str, said: Sequence[str]) -> int:
    spaced = sum(word in _HEDGES or word in _DENIALS for word in said)
    return spaced + sum(text.count(each) for each in _UNSPACED_HEDGES)


def _numbers(said: Iterable[str]) -> set[str]:
    """Numbers among tokens: `12`, `-5`, `7/2`; an ordinal (`#21`) is none."""
    found = set()
    for token in said:
        try:
            Fraction(token)
        except (ValueError, ZeroDivisionError):
            continue
        found.add(token)
    return found


def _within(said: Sequence[str], wanted: Sequence[str]) -> bool:
    places = range(len(said) - len(wanted) + 1)
    return bool(wanted) and any(tuple(said[start : start + len(wanted)]) == tuple(wanted) for start in places)
