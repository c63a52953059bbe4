"""How written and heard answers are compared: by tokens that are equal where two texts say the same.

Unicode: NFKC and casefold, so full-width, half-width and composed forms, and digits of every script, are one. Accents
count (`cafe` is not `café`).
Marks: apostrophes of every kind are one and belong to their word; quotes, brackets, sentence marks, dashes between
words, emoji and invisible characters are left out; mathematical and currency signs, `%` and `°` count.
Numbers: by value, in words or digits (`number_words`). A sign counts (`-5`, `−5`, `minus five`), so does a decimal
point; `,`, `'` or a no-break space group thousands where exactly three digits follow each (`1,000`), and a comma
elsewhere separates two numbers, never decimals. `1/2` = `½` = `0.5`. Leading zeros (`007`) and versions (`1.2.3`) stay
as written. Between two numbers `-`, `+`, `*`, `/`, `:` and `=` count (`10-5`, `10:30`). A unit may touch its number
(`5km` = `5 km`), but units are not translated (`5 kilometres`), nor are currencies (`$5`, `5 dollars`).
Scripts without spaces (Han, kana, Thai, Lao, Khmer, Burmese): every character is a token.
"""

import re
import unicodedata
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from numbers import Integral, Rational, Real
from typing import Any

import numpy as np

from wavalign.plugins.speech.number_words import Ordinal, Piece, read_numbers

_MOST_DIGITS = 400
"""Longer numbers stay as written: no text may cost the time of its own power of ten."""
_LONGEST_NUMBER = 330
"""Digits of a number that is a reference; a float may have as many behind its point."""
_LARGEST = 10**_LONGEST_NUMBER
_LONGEST_POWER = 3
"""Digits of a power of ten."""
_APOSTROPHES = "'’‘‛ʼʹ′`´＇"
_HYPHENS = "-‐‑‒–﹣－"
_MINUS = "−"
_REPLACED = (
    {ord(mark): "'" for mark in _APOSTROPHES}
    | {ord(mark): "-" for mark in _HYPHENS}
    | {ord("٫"): ".", ord("٬"): ",", ord("٪"): "%", ord("⁄"): "/", ord("×"): "*", ord("÷"): "/", 0x200B: " "}
)
_SUPERSCRIPTS = re.compile("[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_GROUPED = re.compile(r"(?<=\d)['\u00a0\u2009\u202f](?=\d{3}(?!\d))")
_SIGNED_MONEY = re.compile(r"[-−]\s*([$€£¥])\s*(?=\d)")
_INITIALS = re.compile(r"\b(?:[^\W\d_]\.)+[^\W\d_]\b\.?")
_WORD_START = re.compile(r"[^\W\d_]")
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_NUMBER = re.compile(
    rf"(?P<literal>\d+(?:\.\d+){{2,}})"
    rf"|(?P<ordinal>{_DIGITS})(?:st|nd|rd|th)(?![^\W\d_])"
    rf"|(?:(?P<whole>\d+) )?(?<!/)(?P<over>\d+)/(?P<under>\d+)(?![./]?\d)(?!/)"
    rf"|(?P<plain>(?:{_DIGITS}(?:\.\d+)?|\.\d+)(?:e[-+]?\d+(?![^\W_]))?)"
)
_BETWEEN = {"-": "-", "+": "plus", "*": "times", "/": "/", ":": ":", "=": "equals", "^": "^", _MINUS: "-"}
"""Signs that say what is done with two numbers, and what they are read as."""
_UNSPACED = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3040, 0x30FF), (0x31F0, 0x31FF),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
)  # fmt: skip
_NEGATING = frozenset({
    "not", "no", "never", "none", "nor", "neither", "nothing", "nobody", "without", "cannot",
    "不", "没", "沒", "無", "无", "非", "未", "别", "勿", "ない", "なく", "ません",
    "nicht", "kein", "keine", "pas", "jamais", "nunca", "nie",
})  # fmt: skip


def plain(text: str) -> str:
    """Words of `text` in lower case, single spaces, no punctuation; numbers as they are written."""
    return " ".join(str(piece) for piece in _words_of(_folded(text)))


def words(text: str) -> tuple[str, ...]:
    """`text` as words: numbers by value, what stands without spaces in one piece."""
    return tuple(read_numbers(list(_pieces(_folded(text)))))


def tokens(text: str) -> tuple[str, ...]:
    """`text` as what is compared: its words, character by character where a script has no spaces."""
    return tuple(token for word in words(text) for token in (_characters(word) if is_unspaced(word) else (word,)))


def content_word(text: str) -> str:
    """The word that carries the answer, the last one; empty for no words.

    A template's other words are heard in any answer: scored, they would give half the credit to a wrong one.
    """
    found = words(text)
    return found[-1] if found else ""


def references(value: Any) -> tuple[str, ...]:
    """The accepted answers that a dialogue's metadata states: a text, a number, true or false, or a list of these.

    `true` is `true` or `yes`, `false` is `false` or `no`. Empty where `value` states none: it is absent, holds nothing
    that can be compared, or is something else.
    """
    if isinstance(value, list | tuple):
        return tuple(text for each in value if not isinstance(each, list | tuple) for text in references(each))
    if isinstance(value, bool | np.bool_):
        return ("true", "yes") if value else ("false", "no")
    text = str(value) if isinstance(value, str) else _written(value)
    return (text,) if tokens(text) else ()


def _written(value: Any) -> str:
    """A number of any kind in digits; empty for what is none, and for what nobody compares by value."""
    if isinstance(value, Integral):
        return str(int(value)) if abs(int(value)) < _LARGEST else ""
    if isinstance(value, Rational):
        return str(value) if abs(value) < _LARGEST and value.denominator < _LARGEST else ""
    if not isinstance(value, Decimal | Real):
        return ""
    # Of a numpy number the shortest digits that mean it: 0.1 of 32 bits is no 0.10000000149.
    number = value if isinstance(value, Decimal) else Decimal(str(value))
    return format(number, "f") if number.is_finite() and abs(number.adjusted()) < _LONGEST_NUMBER else ""


def is_unspaced(word: str) -> bool:
    """Whether `word` is of a script without spaces."""
    return any(low <= ord(word[0]) <= high for low, high in _UNSPACED)


def negations(text: str) -> int:
    """How often `text` negates, in the words this module knows (English, a few of other languages)."""
    count = 0
    for word in words(text):
        if is_unspaced(word):
            count += sum(word.count(each) for each in _NEGATING)
        else:
            count += word in _NEGATING or word.endswith("n't")
    return count


def _folded(text: str) -> str:
    """`text` with one form for everything that is written in several."""
    text = text.translate(_REPLACED)
    text = _SUPERSCRIPTS.sub(lambda found: "^" + unicodedata.normalize("NFKC", found.group()), text)
    text = _GROUPED.sub(",", "".join(map(_character, text)))
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = _SIGNED_MONEY.sub(r"\1-", text.translate(_REPLACED))
    return _INITIALS.sub(lambda found: found.group().replace(".", ""), text)


def _character(character: str) -> str:
    """A digit of any script as its ASCII digit, `½` apart from what it follows, nothing for the invisible."""
    kind = unicodedata.category(character)
    if kind == "Nd":
        return str(unicodedata.decimal(character))
    if kind == "No" and not unicodedata.decomposition(character).startswith("<sub>"):
        # Vulgar fractions and circled digits: a number of its own.
        return f" {unicodedata.normalize('NFKC', character).translate(_REPLACED)} "
    if kind == "Cf" or "\ufe00" <= character <= "\ufe0f":
        return ""
    return character


def _pieces(text: str) -> Iterator[Piece]:
    """Words, numbers and signs of folded `text`, in order."""
    place = 0
    while place < len(text):
        if _WORD_START.match(text, place):
            end = max(_word_end(text, place), place + 1)
            yield from _words_of(text[place:end])
            place = end
        elif found := _NUMBER.match(text, _after_sign(text, place)):
            yield from _number(found, negative=text[place] in (_MINUS, "-"))
            place = found.end()
        else:
            yield from _sign(text, place)
            place += 1


def _word_end(text: str, place: int) -> int:
    while place < len(text) and _is_in_word(text[place]):
        place += 1
    return place


def _is_in_word(character: str) -> bool:
    """Letters with their marks and apostrophes, numerals that are no digits; a digit begins a number."""
    kind = unicodedata.category(character)
    return character == "'" or kind[0] in "LM" or kind in ("Nl", "No")


def _words_of(text: str) -> Iterator[str]:
    """Words of folded `text`, what has no spaces apart from what has them."""
    word = ""
    for character in f"{text} ":
        inside = _is_in_word(character) or character.isdigit()
        changes = word and inside and not _is_mark(character) and is_unspaced(word) != is_unspaced(character)
        if not inside or changes:
            if stripped := word.strip("'"):
                yield stripped
            word = ""
        word += character if inside else ""


def _characters(word: str) -> Iterator[str]:
    """Characters of `word`, each with its combining marks."""
    character = ""
    for each in word:
        if character and not _is_mark(each):
            yield character
            character = ""
        character += each
    yield character


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"


def _after_sign(text: str, place: int) -> int:
    """Where the number begins whose sign or point stands at `place`; the end of `text` where none does."""
    sign, before = text[place], _before(text, place)
    if sign == ".":  # `.5`, but not the second half of `v.5`
        return len(text) if 0 <= before == place - 1 and _ends_something(text[before]) else place
    if sign not in ("-", "+", _MINUS):
        return place
    number = _after(text, place)
    if before >= 0 and _ends_number(text[before]):
        return len(text)  # what one does with two numbers
    if before >= 0 and _is_in_word(text[before]):  # `is -5`, but neither `covid-19` nor `the answer - 5`
        is_sign = sign == _MINUS or (before < place - 1 and number == place + 1)
        return number if is_sign else len(text)
    return number


def _before(text: str, place: int) -> int:
    """Where the last character before `place` stands that is no space; -1 for none."""
    place -= 1
    while place >= 0 and text[place].isspace():
        place -= 1
    return place


def _after(text: str, place: int) -> int:
    """Where the first character after `place` stands that is no space; the end of `text` for none."""
    place += 1
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _ends_something(character: str) -> bool:
    return character.isdigit() or _is_in_word(character)


def _ends_number(character: str) -> bool:
    return character.isdigit() or character in ")%°"


def _number(found: "re.Match[str]", *, negative: bool) -> Iterator[Piece]:
    """What the digits of `found` say."""
    whole, over, under = found["whole"], found["over"], found["under"]
    if found["literal"] or len(found.group()) > _MOST_DIGITS:
        yield found.group()
    elif found["ordinal"]:
        yield Ordinal(int(found["ordinal"].replace(",", "")))
    elif over:
        yield from _fraction(whole, over, under, negative=negative)
    else:
        yield _value(found["plain"], negative=negative)


def _fraction(whole: str | None, over: str, under: str, *, negative: bool) -> Iterator[Piece]:
    if int(under) == 0 or (whole is not None and int(over) >= int(under)):  # no value, or no part of a whole
        if whole is not None:
            yield _value(whole, negative=negative)
        yield _value(over, negative=negative and whole is None)
        yield "/"
        yield _value(under, negative=False)
        return
    value = int(whole or 0) + Fraction(int(over), int(under))
    yield -value if negative else value


def _value(text: str, *, negative: bool) -> Piece:
    """Digits by value; as they are written where zeros lead them or the power of ten is beyond all use."""
    digits = text.replace(",", "")
    mantissa, _, power = digits.partition("e")
    leading = mantissa.startswith("0") and len(mantissa.partition(".")[0]) > 1
    if leading or len(power.lstrip("+-")) > _LONGEST_POWER:
        return f"-{digits}" if negative else digits
    value = Fraction(digits if digits[0] != "." else f"0{digits}")
    return -value if negative else value


def _sign(text: str, place: int) -> Iterator[str]:
    """The mark at `place` where it counts."""
    mark = text[place]
    if mark in _BETWEEN:
        before, after = _before(text, place), _after(text, place)
        if (
            before >= 0
            and after < len(text)
            and _ends_number(text[before])
            and text[after] in f"0123456789.-{_MINUS}($"
        ):
            yield _BETWEEN[mark]
            return
    if mark in "%‰°" or (mark not in "*|~" and unicodedata.category(mark) in ("Sm", "Sc")):
        yield mark
