"""Which answers are worth an ear."""

from collections.abc import Mapping

import pytest

from wavalign.engine.report.suspicion import repeats, suspicions, word_errors
from wavalign.plugins.api import Detail

TWICE = "text right, heard wrong"


@pytest.mark.parametrize(
    ("text", "finished", "values", "details", "reasons"),
    [
        ("it is twelve", True, {"text_accuracy": 1.0, "heard_answer": 1.0}, {"heard": "it is twelve"}, []),
        ("it is twelve", False, {}, {}, ["cut off"]),
        ("it is twelve", None, {}, {}, []),
        (" \n", True, {}, {"heard": ""}, ["no text"]),
        ("yes yes yes", True, {}, {}, ["repeats itself"]),
        ("it is twelve", True, {"text_accuracy": 1.0, "heard_answer": 0.0}, {"heard": "it is ten"}, [TWICE]),
        ("it is twelve", True, {"text_accuracy": 0.0, "heard_answer": 0.0}, {"heard": "it is twelve"}, []),
        ("it is twelve", True, {"text_accuracy/a=b": 1.0, "heard_answer": 0.0}, {"heard": "It is twelve"}, []),
        ("it is twelve", True, {}, {"heard": "so was ten"}, ["heard differs from the text"]),
        ("it is twelve", True, {}, {"heard": ""}, ["nothing is heard"]),
        ("it is twelve", True, {}, {"heard": None}, []),
    ],
)  # fmt: skip
def test_reasons(
    text: str, finished: bool | None, values: Mapping[str, float], details: Mapping[str, Detail], reasons: list[str]
) -> None:
    assert suspicions(text, finished=finished, values=values, details=details) == reasons


@pytest.mark.parametrize(
    ("text", "again"),
    [
        ("no, no, that is fine", False),
        ("I said that I said that I said that", True),
        ("the cat and the dog and the cow", False),
        ("哈哈", False),
        ("不知道不知道不知道不知道", True),
        ("hahahahaha", True),
        ("10000000", False),
        ("it is 1000000000 exactly", False),
        ("Mississippi banana", False),
    ],
)
def test_repetition_in_a_row(text: str, again: bool) -> None:
    assert repeats(text) is again


def test_a_long_answer_is_searched_in_time() -> None:
    assert not repeats(" ".join(f"word{index % 997}" for index in range(200_000)))


def test_word_errors_by_hand() -> None:
    assert word_errors(["it", "is", "ten"], ["It", "is", "twelve"]) == pytest.approx(1 / 3)
    assert word_errors(["a", "b", "c", "d"], ["a"]) == 3.0
    assert word_errors([], ["a", "b"]) == 1.0
