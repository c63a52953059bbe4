"""Grades of written answers: which references there are, what is equal, near, contained, and what is not."""

from dataclasses import replace
from typing import Any

import pytest

from tests.plugins.spoken import dialogue, rollout
from wavalign.plugins.batch import Message
from wavalign.plugins.rewards.answer_match import AnswerMatch, AnswerMatchParams

RIGHT, NEAR, INSIDE, WRONG = 5.0, 2.0, 3.0, 1.0


def grade(text: str, reference: Any, **params: Any) -> float | None:
    asked = replace(dialogue(), metadata={"reference": reference})
    return AnswerMatch(AnswerMatchParams(partial=NEAR, contains=INSIDE, **params)).score(rollout(text), asked).value


@pytest.mark.parametrize(
    ("text", "reference", "value"),
    [
        ("it is twelve", "it is twelve", RIGHT),
        ("It is twelve.\n", "it is twelve", RIGHT),
        ("it is 12", "it is twelve", RIGHT),
        ("it is two", "it is twelve", NEAR),
        ("twelve is it", "it is twelve", WRONG),
        ("", "it is twelve", WRONG),
        ("...", "it is twelve", WRONG),
        ("5", "-5", WRONG),
        ("-5", "5", WRONG),
        ("3 5", "3.5", WRONG),
        ("3.5", "3 5", WRONG),
        ("1000", "1,000", RIGHT),
        ("don\u2019t", "don't", RIGHT),
        ("Twelve.", "12", RIGHT),
        ("twelfth", "12", WRONG),
    ],
)
def test_answers_are_graded(text: str, reference: str, value: float) -> None:
    assert grade(text, reference) == value


@pytest.mark.parametrize("reference", ["twelve", "12", 12, "Paris", "東京", "是"])
@pytest.mark.parametrize("text", ["thirteen", "13", "London", "yes", "東大", "大京", "大阪", "不"])
def test_one_word_is_no_near_miss_of_another(text: str, reference: Any) -> None:
    assert grade(text, reference) == WRONG


def test_a_near_miss_shares_all_but_the_last_word() -> None:
    assert grade("the moon", "the sun") == NEAR
    assert grade("it is the moon", "it is a sun") == WRONG
    assert grade("it is", "it is twelve") == WRONG
    assert grade("it is twelve now", "it is twelve") == INSIDE
    assert grade("答えは十三", "答えは十二") == NEAR


@pytest.mark.parametrize(
    ("text", "reference", "value"),
    [
        ("I think it is twelve", "it is twelve", INSIDE),
        ("the answer must be twelve", "twelve", INSIDE),
        ("the answer must be twelve", "it is twelve", WRONG),  # a sentence is looked for as a sentence
        ("it is not twelve", "it is twelve", WRONG),
        ("it is not twelve", "twelve", WRONG),
        ("it isn\u2019t twelve", "twelve", WRONG),
        ("it is twelve, not ten", "twelve", WRONG),
        ("it is never cold", "it is never cold", RIGHT),
        ("well, it is not cold", "it is not cold", INSIDE),
        ("well, it is not never cold", "it is not cold", WRONG),
        ("不是十二", "十二", WRONG),
        ("答えは十二です", "十二", INSIDE),
        ("twelvefold", "twelve", WRONG),
        ("120", "12", WRONG),
        ("-12", "12", WRONG),
        ("it is 12.5", "12", WRONG),
        ("about 12%", "12", WRONG),
        ("from 10-12", "12", WRONG),
        ("12 km away", "12 km", INSIDE),
        ("he said New York", "new york", INSIDE),
        ("york is new", "new york", WRONG),
    ],
)
def test_a_longer_answer_contains_the_whole_reference_and_no_other_negation(
    text: str, reference: str, value: float
) -> None:
    assert grade(text, reference) == value


LISTED = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"


@pytest.mark.parametrize(
    ("text", "reference", "alone"),
    [
        ("it is twelve or thirteen", "twelve", False),
        ("either twelve or ten", "twelve", False),
        ("maybe twelve", "twelve", False),
        (LISTED, "twelve", False),
        ("twelve, 13", "12", False),
        ("thirteen. wait, twelve", "twelve", False),
        ("five plus seven is twelve", "twelve", True),  # the question's own numbers
        ("5 + 7 = 12", "12", True),
        ("5 + 7 = 12, 13", "12", False),
        ("in the 21st month, twelve", "twelve", True),  # a place in a row is no number
        ("twelve is wrong", "twelve", False),
        ("it is false", "false", True),
        ("it is true or false", "false", False),
        ("heads or tails it is", "heads or tails", True),
        ("paris and 3 others", "paris", True),  # no number was asked for
        ("rome paris madrid", "paris", False),
        ("答えは十二または十三です", "十二", False),
    ],
)
def test_what_says_more_than_one_thing_contains_nothing_unless_lenient(text: str, reference: str, alone: bool) -> None:
    asked = replace(
        dialogue(),
        messages=(Message("user", "what is five plus seven?"),),
        metadata={"reference": reference, "wrong": ["rome", "new york"]},
    )

    def said(**options: Any) -> float | None:
        return AnswerMatch(AnswerMatchParams(contains=INSIDE, **options)).score(rollout(text), asked).value

    assert said(alternatives="wrong") == (INSIDE if alone else WRONG)
    assert said(alternatives="wrong", lenient=True) == INSIDE
    assert said() == (INSIDE if alone or text.startswith("rome") else WRONG)


def test_a_list_is_no_answer_whatever_its_order() -> None:
    words = LISTED.split()
    for shift in range(len(words)):
        assert grade(" ".join(words[shift:] + words[:shift]), "twelve") == WRONG


@pytest.mark.parametrize(
    ("reference", "texts"),
    [
        (12, ("12", "twelve", "12.0")),
        (-3.5, ("-3.5", "minus three point five")),
        (0, ("zero", "0")),
        (True, ("true", "Yes.")),
        (False, ("false", "no")),
        (["twelve", "a dozen"], ("12", "A dozen!")),
        ([12, None, 13], ("thirteen",)),
    ],
)
def test_references_may_be_numbers_truths_and_lists(reference: Any, texts: tuple[str, ...]) -> None:
    assert [grade(text, reference) for text in texts] == [RIGHT] * len(texts)
    assert grade("seven", reference) == WRONG


@pytest.mark.parametrize("reference", [None, "", "?!", [], {}, {"a": "b"}, float("nan")])
def test_without_a_reference_there_is_no_score(reference: Any) -> None:
    asked = replace(dialogue(), metadata={"reference": reference})
    scored = AnswerMatch(AnswerMatchParams()).score(rollout("a"), asked)
    assert scored.value is None and "metadata.reference" in scored.reason


def test_the_target_may_be_the_reference() -> None:
    by_target = AnswerMatch(AnswerMatchParams(reference=None))
    assert by_target.score(rollout("it is 2"), dialogue("it is two")).value == RIGHT
    assert by_target.score(rollout("it is 2"), replace(dialogue(), target=None)).value is None


def test_by_default_only_the_right_answer_is_worth_anything() -> None:
    reward = AnswerMatch(AnswerMatchParams())
    scores = [reward.score(rollout(text), dialogue("it is twelve")).value for text in ("it is twelve", "it is two")]
    assert scores == [5.0, 1.0] and reward.range == (1.0, 5.0)
