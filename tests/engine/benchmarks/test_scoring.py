"""What answers are worth: letters, yes and no, texts by their tokens, word errors counted by hand."""

import pytest

from tests.engine.benchmarks.made import question
from wavalign.engine.benchmarks.scoring import Score, compared_texts, contains, measures_of, word_errors


def scores(task: str, asked: object, text: str) -> dict[str, Score]:
    return {each.name: each.score(asked, text) for each in measures_of(task)}  # type: ignore[arg-type]


def test_a_choice_is_right_wrong_or_not_taken() -> None:
    asked = question(answer="B")
    assert scores("choice", asked, "The answer is B.")["choice"] == Score(1.0, "", {"taken": "B", "correct": "B"})
    assert scores("choice", asked, "(A)")["choice"].value == 0.0
    refused = scores("choice", asked, "I cannot say.")["choice"]
    assert (refused.value, refused.reason) == (0.0, "no letter taken, or several")
    assert scores("choice", question(answer="blue"), "B")["choice"].value is None


def test_yes_no_and_its_two_options() -> None:
    assert scores("yes_no", question(answer="Yes"), "No.")["yes_no"].value == 0.0
    assert scores("yes_no", question(answer="No"), "It is not plausible")["yes_no"].value == 1.0
    assert scores("yes_no", question(answer="(A)"), "The answer is (A)")["yes_no"].value == 1.0
    assert scores("yes_no", question(answer="Yes"), "Perhaps.")["yes_no"].value == 0.0
    assert scores("yes_no", question(answer="Maybe"), "Yes")["yes_no"].value is None


@pytest.mark.parametrize("said", ["Twelve.", "12", "twelve", "TWELVE!"])
def test_texts_say_the_same_however_they_are_written(said: str) -> None:
    assert compared_texts(said, ("12",)) == (True, True)
    assert compared_texts(f"It is {said}", ("twelve",)) == (False, True)


def test_an_accepted_answer_stands_in_whole_words() -> None:
    asked = question(answer=["Ada Lovelace", "Lovelace"], target="It was Ada Lovelace.")
    found = scores("reference", asked, "I think it was lovelace")
    assert (found["exact"].value, found["contains"].value) == (0.0, 1.0)
    assert scores("reference", asked, "It was Ada Lovelace")["exact"].value == 1.0
    assert contains(asked, "Lovelaces").value == 0.0
    assert contains(question(), "x").value is None


def test_word_errors_by_hand() -> None:
    """One word replaced, one missing, one added, of six."""
    found = word_errors("the dog sat a mat down", "the cat sat on a mat")
    assert found.value == pytest.approx(3 / 6) and found.weight == 6.0
    assert word_errors("", "one two").value == 1.0
    assert word_errors("x", "...").value is None


def test_words_are_held_against_a_whole_answer_or_a_transcript_alone() -> None:
    short = scores("reference", question(answer="twelve"), "it is twelve")
    assert short["word_error_rate"].value is None and short["contains"].value == 1.0
    whole = scores("reference", question(answer="twelve", target="It is twelve."), "it is twelve")
    assert whole["word_error_rate"].value == 0.0
    assert scores("transcript", question(answer="a b c d"), "a x c d e")["word_error_rate"].value == 0.5


def test_a_refusal_is_told_by_its_words() -> None:
    assert scores("refusal", question(), "I'm sorry, no.")["refused"].value == 1.0
    empty = scores("refusal", question(), "")["refused"]
    assert (empty.value, empty.reason) == (0.0, "the answer is empty")


@pytest.mark.parametrize("task", ["open", "style", "instructions"])
def test_what_needs_a_judge_has_no_number(task: str) -> None:
    assert scores(task, question(answer="B"), "B") == {}
