import pytest

from wavalign.plugins.speech.sounding import sounds


@pytest.mark.parametrize(
    ("heard", "said"),
    [
        ("It is for.", "it is four"),
        ("It is too.", "it is two"),
        ("It is 4!", "it is four"),
        ("What color is a lemon?", "what colour is a lemon"),
        ("It is grey", "it is gray"),
        ("20", "twenty"),
    ],
)
def test_what_sounds_the_same_is_the_same(heard: str, said: str) -> None:
    assert sounds(heard) == sounds(said)


@pytest.mark.parametrize(
    ("heard", "said"), [("It is sex.", "it is six"), ("it is 13", "it is thirty"), ("it is", "it is it"), ("30", "13")]
)
def test_what_sounds_different_is_not(heard: str, said: str) -> None:
    assert sounds(heard) != sounds(said)


def test_what_the_dictionary_lacks_stays_as_it_is() -> None:
    assert sounds("Qwzx 21 东京") == ("qwzx", "21", "东", "京")
    assert sounds("") == ()
