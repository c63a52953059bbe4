"""Tokens of a recipe become weights, or an error; never another selection."""

import pytest

from wavalign.plugins.selection import kind_weights


def test_names_stand_for_kinds() -> None:
    assert kind_weights("text") == {"text": 1.0, "audio": 0.0, "marks": 0.0}
    assert kind_weights("audio") == {"text": 0.0, "audio": 1.0, "marks": 0.0}
    assert kind_weights("all") == {"text": 1.0, "audio": 1.0, "marks": 1.0}


def test_a_mapping_gives_its_weights_and_zero_for_the_rest() -> None:
    assert kind_weights({"audio": 0.25, "text": 2}) == {"text": 2.0, "audio": 0.25, "marks": 0.0}


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ("speech", "unknown tokens 'speech'"),
        ({"txt": 1.0}, "unknown token kind 'txt'"),
        ({"text": -1.0}, "from 0 up"),
        ({"text": float("inf")}, "from 0 up"),
        ({"text": 0.0}, "selects no token"),
        ({}, "selects no token"),
    ],
)
def test_what_makes_no_sense_is_refused(tokens: str | dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind_weights(tokens)
