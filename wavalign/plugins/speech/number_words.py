"""Numbers as values: English number words and digits that say the same become the same token.

`twelve` = `12`, `twenty-one` = `21`, `one hundred and five` = `105`, `5 million` = `5000000`, `three point five` =
`3.5`, `minus five` = `-5`, `one half` = `1/2` = `0.5`, `one and a half` = `1.5`, `twenty-first` = `21st`, `fifty
percent` = `50 %`. A sign counts, so does a decimal point; an ordinal is not its cardinal.

Limits: English words up to the trillions; no years read in pairs (`nineteen eighty four` is 19 and 84), no dozens, no
Roman or Chinese numerals, no `oh` for zero, no ordinals such as `two hundredth`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import final

SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_SMALL_PLACES = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
    "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth", "eighteenth", "nineteenth",
)  # fmt: skip
_ROUND = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_UNITS = {word: value for value, word in enumerate(SMALL)}
_TENS = {word: 10 * value for value, word in enumerate(_ROUND, start=2)}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_ORDINALS = {word: value for value, word in enumerate(_SMALL_PLACES, start=1)}
_ORDINALS |= {f"{word[:-1]}ieth": value for word, value in _TENS.items()}
_PARTS = {"half": 2, "quarter": 4} | {word: value for word, value in _ORDINALS.items() if 3 <= value <= 20}
_MANY_PARTS = {"halves": 2} | {f"{word}s": value for word, value in _PARTS.items() if word != "half"}


@final
@dataclass(frozen=True, slots=True)
class Ordinal:
    """A place in a row, e.g. of `21st`."""

    value: int


Piece = str | Fraction | Ordinal
"""A word or sign, or what digits say."""


def read_numbers(pieces: Sequence[Piece]) -> list[str]:
    """`pieces` as tokens: words as they are, numbers by value (`12`, `-5`, `7/2`), ordinals as `#21`."""
    tokens: list[str] = []
    number_before, index = False, 0
    while index < len(pieces):
        word = pieces[index]
        if word in ("minus", "negative") and _number(pieces, index + 1) is not None:
            if number_before:  # between two numbers it is what one does with them
                tokens.append("-")
                number_before, index = False, index + 1
                continue
            value, index = _number(pieces, index + 1) or (Fraction(0), index)
            tokens.append(str(-value))
            number_before = True
            continue
        if (named := _ordinal(pieces, index)) is not None:
            place, index = named
            tokens.append(f"#{place}")
            number_before = False
            continue
        if (found := _number(pieces, index)) is not None:
            value, index = found
            tokens.append(str(value))
            number_before = True
            continue
        percent, index = _percent(pieces, index)
        tokens.append(percent)
        number_before = False
    return tokens


def _percent(pieces: Sequence[Piece], index: int) -> tuple[str, int]:
    """The word at `index`, every way to write percent as its sign, and where reading goes on."""
    if pieces[index] == "percent":
        return "%", index + 1
    if pieces[index] == "per" and _word(pieces, index + 1) == "cent":
        return "%", index + 2
    return str(pieces[index]), index + 1


def _number(pieces: Sequence[Piece], index: int) -> tuple[Fraction, int] | None:
    """The number that begins at `index` and where it ends; None for none."""
    if index >= len(pieces):
        return None
    first = pieces[index]
    if isinstance(first, Fraction):
        return _scaled(first, pieces, index + 1)
    found = _cardinal(pieces, index)
    if found is None:
        return None
    value, after = found
    if _word(pieces, after) == "point" and (digits := _decimals(pieces, after + 1))[0]:
        return _scaled(Fraction(f"{value}.{digits[0]}"), pieces, digits[1])
    if (part := _part(pieces, after, many=value != 1)) is not None:
        return Fraction(value, part), after + 1
    if _word(pieces, after) == "and" and _word(pieces, after + 1) == "a":
        part = _part(pieces, after + 2, many=False)
        if part in (2, 4):  # one and a half, two and a quarter
            return value + Fraction(1, part), after + 3
    return Fraction(value), after


def _scaled(value: Fraction, pieces: Sequence[Piece], index: int) -> tuple[Fraction, int]:
    """`5 million`, `1.5 thousand`, `2 hundred`; and `1 1/2`."""
    following = pieces[index] if index < len(pieces) else ""
    if isinstance(following, str) and following in {"hundred": 100, **_SCALES}:
        return value * {"hundred": 100, **_SCALES}[following], index + 1
    return value, index


def _cardinal(pieces: Sequence[Piece], index: int) -> tuple[int, int] | None:
    """The whole number in words that begins at `index`."""
    total, above, end = 0, 10**15, index
    while (found := _below_thousand(pieces, end)) is not None:
        value, after = found
        scale = _SCALES.get(_word(pieces, after), 1)
        if scale >= above:
            break
        total, above, end = total + value * scale, scale, after + (scale > 1)
        if scale == 1:
            break
        if _word(pieces, end) == "and" and _below_thousand(pieces, end + 1) is not None:
            end += 1
    if end == index:
        return None
    # An `and` that nothing of this number followed belongs to the sentence.
    return total, end - (pieces[end - 1] == "and")


def _below_thousand(pieces: Sequence[Piece], index: int) -> tuple[int, int] | None:
    word = _word(pieces, index)
    following = _word(pieces, index + 1)
    if word == "a" and (following == "hundred" or following in _SCALES):
        found: tuple[int, int] | None = (1, index + 1)
    else:
        found = _below_hundred(pieces, index)
    if found is None or _word(pieces, found[1]) != "hundred" or found[0] == 0:
        return found
    value, end = 100 * found[0], found[1] + 1
    rest = _below_hundred(pieces, end + (_word(pieces, end) == "and"))
    if rest is None or _word(pieces, rest[1]) == "hundred":  # `one hundred two hundred` are two numbers
        return value, end
    return value + rest[0], rest[1]


def _below_hundred(pieces: Sequence[Piece], index: int) -> tuple[int, int] | None:
    word = _word(pieces, index)
    if word in _UNITS:
        return _UNITS[word], index + 1
    if word not in _TENS:
        return None
    unit = _UNITS.get(_word(pieces, index + 1), 0)
    return (_TENS[word] + unit, index + 2) if 0 < unit < 10 else (_TENS[word], index + 1)


def _ordinal(pieces: Sequence[Piece], index: int) -> tuple[int, int] | None:
    """`21st`, `third`, `twenty first`, `one hundred and first`."""
    first = pieces[index]
    if isinstance(first, Ordinal):
        return first.value, index + 1
    if first in _ORDINALS:
        return _ORDINALS[str(first)], index + 1
    found = _cardinal(pieces, index)
    if found is None:
        return None
    value, end = found
    place = _ORDINALS.get(_word(pieces, end + (value % 100 == 0 and _word(pieces, end) == "and")), 0)
    fits = place > 0 and value > 0 and (value % 100 == 0 or (value % 10 == 0 and value % 100 > 10 and place < 10))
    return (value + place, end + 1 + (_word(pieces, end) == "and")) if fits else None


def _decimals(pieces: Sequence[Piece], index: int) -> tuple[str, int]:
    """Digits said one by one, or as one number below 100, and where they end."""
    digits = ""
    while (digit := _UNITS.get(_word(pieces, index), 10)) < 10:
        digits, index = digits + str(digit), index + 1
    if digits:
        return digits, index
    found = _below_hundred(pieces, index)
    return ("", index) if found is None else (str(found[0]), found[1])


def _part(pieces: Sequence[Piece], index: int, *, many: bool) -> int | None:
    return (_MANY_PARTS if many else _PARTS).get(_word(pieces, index))


def _word(pieces: Sequence[Piece], index: int) -> str:
    """The word at `index`; empty for a number or none."""
    piece = pieces[index] if index < len(pieces) else ""
    return piece if isinstance(piece, str) else ""
