"""Two recognisers behind one name, and rewards and metrics that let a recipe choose."""

from functools import cache

import numpy as np
import pytest
from pydantic import ValidationError

from tests.plugins.spoken import dialogue, group, rollout, say
from wavalign.plugins.batch import Waveform
from wavalign.plugins.metrics.heard_answer import HeardAnswer, HeardAnswerParams
from wavalign.plugins.metrics.word_error_rate import WordErrorRate, WordErrorRateParams
from wavalign.plugins.rewards.asr_consistency import AsrConsistency, AsrConsistencyParams
from wavalign.plugins.speech.hearing import content_sound

hibari = pytest.importorskip("hibari", reason="the extra `natural` is not installed")


@cache
def spoken(text: str) -> Waveform:
    """`text` by a neural voice, whose words Whisper understands."""
    return Waveform(np.asarray(hibari.Hibari()(text, seed=0), np.float32), 24_000)


def test_words_that_no_sentence_list_holds_are_compared_by_their_sound() -> None:
    asked = dialogue("the meal was for two")  # written otherwise, said the same
    answer = rollout("the meal was four to", spoken("The meal was for two."))
    (measured,) = WordErrorRate(WordErrorRateParams(recognizer="whisper")).measure([group(asked, answer)])
    assert measured.value == 0 and measured.count == 1
    right, own = HeardAnswer(HeardAnswerParams(recognizer="whisper")).measure([group(asked, answer)])
    assert right.items == (1.0,) and own.items == (1.0,)
    other = group(asked, rollout("the meal was for three", spoken("The meal was for three.")))
    right, own = HeardAnswer(HeardAnswerParams(recognizer="whisper")).measure([other])
    assert right.items == (0.0,) and own.items == (1.0,)
    (measured,) = WordErrorRate(WordErrorRateParams(recognizer="whisper")).measure([other])
    assert measured.value == pytest.approx(1 / 5)


def test_the_sound_must_say_the_texts_word_to_whisper_too() -> None:
    reward = AsrConsistency(AsrConsistencyParams(recognizer="whisper"))
    sound = spoken("My umbrella is purple.")
    agreed = reward.score(rollout("my umbrella is purple", sound), dialogue())
    assert (agreed.value, agreed.details["heard"]) == (1.0, "My umbrella is purple.")
    assert reward.score(rollout("my umbrella is orange", sound), dialogue()).value == 0.0


def test_the_default_listener_is_the_closed_one() -> None:
    """It hears its sentences in whatever is said."""
    heard = AsrConsistency(AsrConsistencyParams()).score(rollout("it is two", say("it is two")), dialogue())
    assert heard.value == 1.0
    assert "PocketSphinx" in WordErrorRate.instrument(WordErrorRateParams())
    for made in (
        WordErrorRate.instrument(WordErrorRateParams(recognizer="whisper")),
        HeardAnswer.instrument(HeardAnswerParams(recognizer="whisper")),
        AsrConsistency.instrument(AsrConsistencyParams(recognizer="whisper")),
    ):
        assert made == "Whisper tiny.en"


@pytest.mark.parametrize("params", [WordErrorRateParams, HeardAnswerParams, AsrConsistencyParams])
def test_sentences_that_nobody_looks_at_are_an_error(params: type) -> None:
    with pytest.raises(ValidationError, match="whisper hears any words"):
        params(recognizer="whisper", sentences="some.txt")


def test_the_sound_of_the_last_word() -> None:
    assert content_sound("it is four") == content_sound("This is for.") == content_sound("4") != content_sound("five")
    assert content_sound("") == ""
