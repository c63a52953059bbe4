"""What counts as saying the same: classes of equal texts, and pairs that must stay apart."""

import itertools
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavalign.plugins.speech.wording import content_word, is_unspaced, negations, plain, references, tokens, words

EQUAL = [
    (
        "twelve",
        "12",
        "Twelve.",
        "“TWELVE”",
        "'12'",
        "１２",
        "١٢",
        "12.0",
        "12.",
        "(12)",
        "**12**",
        "t\u00adwelve\u200b!",
    ),
    ("-5", "−5", "– 5", "minus five", "Minus 5", "negative five"),
    ("it is -5", "it is −5", "it is minus five"),
    ("3.5", "3.50", "three point five", "٣٫٥", "3 1/2", "3½", "three and a half", "7/2"),
    ("1,000", "1000", "one thousand", "a thousand", "1\u00a0000", "1\u202f000", "1'000", "١٬٠٠٠", "1 thousand", "1e3"),
    ("1,234,567.5", "1234567.5"),
    ("one hundred and five", "a hundred five", "105"),
    ("two million three hundred thousand and one", "2300001", "2,300,001"),
    ("5 million", "five million", "5000000"),
    ("twenty-one", "twenty one", "Twenty One", "21"),
    ("twenty-first", "21st", "21ST"),
    ("1/2", "½", "one half", "0.5", ".5", "1⁄2"),
    ("three quarters", "3/4", "¾", "0.75", "three fourths"),
    ("50%", "50 %", "fifty percent", "50 per cent", "５０％", "٥٠٪"),
    ("5km", "5 km", "five km", "5㎞"),
    ("don't", "don’t", "DON＇T", "donʼt", "don`t"),
    ("café", "cafe\u0301", "CAFÉ"),
    ("straße", "STRASSE"),
    ("アメリカ", "ｱﾒﾘｶ", "「アメリカ」。"),
    ("10-5", "10 - 5", "10 − 5", "ten minus five"),
    ("2+2=4", "two plus two equals four"),
    ("10²", "10^2"),
    ("U.S.", "US", "u.s"),
    ("covid-19", "covid 19"),
    ("it is twelve", "It is: twelve!", "it is 12 😀"),
    ("−$5", "-$5", "$-5"),
]
APART = [
    ("-5", "5"),
    ("−5", "5"),
    ("- 5", "5"),
    ("minus five", "five"),
    ("-$5", "$5"),
    ("3.5", "3 5"),
    ("3.5", "35"),
    ("3.5", "3,5"),
    ("1,000", "1.000"),
    ("1,000", "1 0"),
    ("1 000", "1 0"),
    ("007", "7"),
    ("12", "twelfth"),
    ("12", "1 2"),
    ("12", "twenty"),
    ("50%", "50"),
    ("$5", "5"),
    ("20°", "20"),
    ("5 km", "5 m"),
    ("don't", "dont"),
    ("don't", "don t"),
    ("café", "cafe"),
    ("10-5", "10 5"),
    ("10:30", "10 30"),
    ("10²", "102"),
    ("1½", "11/2"),
    ("1/2", "1 2"),
    ("1.2.3", "1 2 3"),
    ("1e3", "1e-3"),
    ("东京", "京东"),
    ("二", "2"),
    ("one third", "first third"),
    ("twenty third", "20/3"),
    ("", "0"),
]


@pytest.mark.parametrize("texts", EQUAL, ids=lambda texts: texts[0])
def test_what_says_the_same_is_equal(texts: tuple[str, ...]) -> None:
    found = {text: tokens(text) for text in texts}
    assert len(set(found.values())) == 1, found


@pytest.mark.parametrize(("one", "other"), APART)
def test_what_says_something_else_is_not(one: str, other: str) -> None:
    assert tokens(one) != tokens(other)


def test_no_class_of_equal_texts_meets_another() -> None:
    first = [tokens(texts[0]) for texts in EQUAL]
    assert all(one != other for one, other in itertools.combinations(first, 2))


NUMBERS = [
    "zero",
    "seven",
    "thirteen",
    "forty two",
    "one hundred",
    "nine hundred and ninety nine",
    "three thousand six",
]


@pytest.mark.parametrize(("text", "value"), list(zip(NUMBERS, [0, 7, 13, 42, 100, 999, 3006], strict=True)))
def test_number_words_have_their_value(text: str, value: int) -> None:
    assert tokens(text) == tokens(str(value)) == (str(value),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one two three", ("1", "2", "3")),
        ("two and three", ("2", "and", "3")),
        ("one hundred two hundred", ("100", "200")),
        ("twenty eleven", ("20", "11")),
        ("one thousand two million", ("1000", "2000000")),
        ("one hundred and a dog", ("100", "and", "a", "dog")),
        ("one second", ("1", "#2")),
        ("2024-01-05", ("2024", "-", "01", "-", "05")),
        ("12/31/2024", ("12", "/", "31", "/", "2024")),
        ("1/0", ("1", "/", "0")),
        ("the price - 5 dollars", ("the", "price", "5", "dollars")),
        ("สวัสดี", ("ส", "วั", "ส", "ดี")),
        ("हिन्दी में", ("हिन्दी", "में")),
        ("〇と一", ("〇", "と", "一")),
        ("iPhone五", ("iphone", "五")),
    ],
)
def test_tokens_are_these(text: str, expected: tuple[str, ...]) -> None:
    assert tokens(text) == expected


@given(st.integers(min_value=-(10**12), max_value=10**12))
def test_thousands_and_full_width_digits_are_the_number(value: int) -> None:
    wide = str(value).translate({ord("0") + digit: "０１２３４５６７８９"[digit] for digit in range(10)})
    assert tokens(f"{value:,}") == tokens(str(value)) == tokens(wide) == references(value) == (str(value),)
    assert tokens(str(-value)) != tokens(str(value)) or value == 0


@given(st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False, min_value=-1e15, max_value=1e15))
def test_a_number_of_the_metadata_is_one_token(value: float) -> None:
    assert len(tokens(references(value)[0])) == 1
    assert tokens(references(value)[0]) == tokens(repr(value))


@given(st.text(max_size=60))
def test_any_text_has_tokens_that_case_and_surroundings_do_not_change(text: str) -> None:
    found = tokens(text)
    assert found == tokens(f"  {text} ") and all(found)
    assert content_word(text) == (words(text)[-1] if found else "")
    assert plain(plain(text)) == plain(text) and negations(text) >= 0


@given(st.text(alphabet="0123456789.,-−+/:^e%½²' \u00a0twelvonhudrd", max_size=40))
def test_nothing_that_looks_like_a_number_breaks_it(text: str) -> None:
    assert all(isinstance(token, str) and token for token in tokens(text))


def test_endless_numbers_cost_no_time() -> None:
    for text in ("9" * 100_000, "1e" + "9" * 50_000, "1/" + "9" * 50_000, "-" * 100_000, "1." * 50_000, "1," * 50_000):
        assert tokens(text) is not None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.int64(12), "12"),
        (np.float64(3.5), "3.5"),
        (np.float32(0.1), "0.1"),
        (np.bool_(False), "no"),
        (np.str_("twelve"), "twelve"),
        (Decimal("1.50"), "1.5"),
        (Fraction(7, 2), "3 1/2"),
        (-0.0, "0"),
        (1e308, str(10**308)),
    ],
)
def test_numbers_of_every_kind_are_references(value: object, expected: str) -> None:
    assert tokens(expected) in [tokens(each) for each in references(value)]


def test_numbers_nobody_says_are_none() -> None:
    for value in (10**5000, -(10**5000), Fraction(1, 10**400), Decimal("1e999"), Decimal("nan"), np.float32("inf")):
        assert references(value) == ()


def test_references_are_what_metadata_may_hold() -> None:
    assert references("twelve") == ("twelve",)
    assert references(12) == ("12",) and references(-3.5) == ("-3.5",) and references(1e-7) == ("0.0000001",)
    assert references(True) == ("true", "yes") and references(False) == ("false", "no")
    assert references(["twelve", 12, None, "?"]) == ("twelve", "12")


@pytest.mark.parametrize("value", [None, "", "...", {}, [], float("nan"), float("inf"), [["a"]]])
def test_what_states_no_answer_is_no_reference(value: object) -> None:
    assert references(value) == ()


def test_the_answers_word_is_the_last_one_and_a_whole_run_without_spaces() -> None:
    assert content_word("It is twelve.") == content_word("12") == "12"
    assert content_word("it is twenty one") == "21"
    assert content_word("答えは 東京") == "東京" and is_unspaced("東京") and not is_unspaced("paris")
    assert content_word("") == content_word("...") == ""


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("it is twelve", 0),
        ("It is NOT twelve", 1),
        ("it isn’t twelve", 1),
        ("不是十二", 1),
        ("12ではない", 1),
        ("no, never", 2),
    ],
)
def test_negations_are_counted(text: str, count: int) -> None:
    assert negations(text) == count
