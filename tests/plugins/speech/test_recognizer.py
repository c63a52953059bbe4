from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.plugins.spoken import say
from wavalign.errors import DataError, PluginError
from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.recognizer import Recognizer, recognizer
from wavalign.plugins.speech.world.facts import answer_sentences

SAID = ["it is eleven", "that is paris", "it is three", "it is green"]


def test_it_hears_what_was_said_and_nothing_in_nothing() -> None:
    ears = recognizer(answer_sentences(), 2)
    assert ears.recognize_all([say(text) for text in SAID]) == SAID
    assert ears.recognize(Waveform(np.zeros(0, np.float32), 16_000)) == ""


def test_threads_and_order_change_nothing() -> None:
    ears = recognizer(answer_sentences(), 2)
    clips = [say(text, style) for text in SAID for style in ("sad", "excited")]
    alone = [ears.recognize(clip) for clip in clips]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ears.recognize, clips[::-1])) == alone[::-1]


def test_only_the_first_seconds_are_listened_to() -> None:
    ears = recognizer(answer_sentences(), 2)
    silence = np.random.default_rng(0).standard_normal(9 * 16_000).astype(np.float32) * 1e-4
    late = Waveform(np.concatenate([silence, say("that is paris").samples]), 16_000)
    assert "paris" not in ears.recognize(late)


def test_a_word_nobody_can_pronounce_is_named() -> None:
    with pytest.raises(DataError, match="'qwzx'"):
        Recognizer(["it is qwzx"])


def test_a_listener_that_dies_is_an_error_not_a_silence() -> None:
    ears = Recognizer(["it is eleven"], processes=1)
    ears.recognize(say("it is eleven"))
    for worker in ears._workers:
        worker.kill()
    with pytest.raises(PluginError, match="ended with status -9"):
        ears.recognize(say("it is eleven"))
    assert ears.recognize(say("it is eleven")) == "it is eleven"
    ears.close()
