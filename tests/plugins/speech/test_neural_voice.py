import numpy as np
import pytest

from wavalign.plugins.speech.neural_voice import HOP, SAMPLE_RATE, WIDTH, Manner, neural_voice
from wavalign.plugins.speech.prosody import measure
from wavalign.plugins.speech.whisper import whisper

hibari = pytest.importorskip("hibari", reason="the extra `natural` is not installed")
TEXT = "It is nineteen."


def test_the_two_halves_speak_as_the_whole_did() -> None:
    ours, theirs = neural_voice().speak(TEXT, seed=3), hibari.Hibari()(TEXT, seed=3)
    assert ours.sample_rate == SAMPLE_RATE and len(ours.samples) == len(theirs)
    # The dynamic 8-bit quantisation of the halves rounds a little differently; the noise is the same.
    assert float(np.abs(ours.samples - theirs).max()) < 0.05 * float(np.abs(theirs).max())


def test_the_same_call_gives_the_same_samples_and_another_seed_others() -> None:
    one, same, other = (neural_voice().speak(TEXT, seed=seed).samples for seed in (0, 0, 1))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_a_score_has_the_stated_shapes_and_no_words_have_none() -> None:
    score = neural_voice().read(TEXT)
    frames = len(score.pitch)
    assert score.features.shape == (frames, WIDTH) and score.level.shape == (frames,)
    assert len(neural_voice().sing(score).samples) == frames * HOP
    assert np.array_equal(score.features[::2], score.features[1::2])
    assert len(neural_voice().speak("").samples) == 0


def test_manner_moves_what_it_says() -> None:
    plain, high, slow = (
        measure(neural_voice().speak(TEXT, manner), TEXT) for manner in (Manner(), Manner(pitch=4.0), Manner(speed=0.8))
    )
    assert plain is not None and high is not None and slow is not None
    assert high.pitch - plain.pitch == pytest.approx(4.0, abs=0.7)
    assert slow.rate < 0.9 * plain.rate
    flat = neural_voice().read(TEXT, Manner(range=0.0)).pitch
    assert np.ptp(flat[flat > 40.0]) < 1e-3


def test_what_is_slurred_is_not_understood() -> None:
    ears = whisper(2)
    assert ears.recognize(neural_voice().speak("That is Madrid.")) == "That is Madrid."
    assert "Madrid" not in ears.recognize(neural_voice().speak("That is Madrid.", Manner(slur=17)))


def test_the_voice_speaks_phones_of_given_durations_as_it_would_itself() -> None:
    score = neural_voice().read(TEXT)
    again = neural_voice().timed(score.phones)
    assert np.array_equal(again.features, score.features) and np.allclose(again.pitch, score.pitch, atol=1e-3)
    assert np.allclose(again.level, score.level, atol=1e-5)
    longer = neural_voice().timed(np.repeat(score.phones, 2))
    assert len(longer.pitch) == 2 * len(score.pitch)
