import numpy as np
import pytest

from tests.plugins.spoken import say
from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.prosody import measure, track


def pulses(pitch: float, seconds: float = 0.5, rate: int = 16_000) -> Waveform:
    """A harmonic tone at `pitch` Hz."""
    time = np.arange(int(seconds * rate)) / rate
    tone = sum(np.cos(2 * np.pi * pitch * number * time) / number for number in range(1, 12))
    return Waveform((0.1 * np.asarray(tone)).astype(np.float32), rate)


@pytest.mark.parametrize("pitch", [70.0, 95.0, 141.0, 220.0, 330.0])
def test_pitch_of_a_harmonic_tone_is_found_within_a_percent(pitch: float) -> None:
    found = track(pulses(pitch), hop=160)
    assert len(found.pitch) == 50
    assert found.pitch[5:-5] == pytest.approx(pitch, rel=0.01)


def test_noise_has_no_pitch_and_nothing_has_no_frames() -> None:
    noise = np.random.default_rng(0).standard_normal(8_000).astype(np.float32) * 0.1
    assert (track(Waveform(noise, 16_000), hop=160).pitch > 0).mean() < 0.1
    assert len(track(Waveform(np.zeros(0, np.float32), 16_000), hop=160).pitch) == 0


def test_level_is_in_decibels_of_full_scale() -> None:
    found = track(Waveform(np.full(16_000, 0.1, np.float32), 16_000), hop=160)
    assert found.level[20:-20] == pytest.approx(-20.0, abs=1e-3)


def test_rate_counts_letters_over_the_sounding_time() -> None:
    measured = measure(pulses(100.0, seconds=0.5), "ab cd, e")
    assert measured is not None
    assert measured.rate == pytest.approx(10.0, rel=0.05)
    assert measured.pitch == pytest.approx(0.0, abs=0.1)


def test_styles_come_in_their_order() -> None:
    sad, neutral, excited = (
        measure(say("it is nineteen", name), "it is nineteen") for name in ("sad", "neutral", "excited")
    )
    assert sad and neutral and excited
    assert sad.pitch < neutral.pitch - 1 < excited.pitch - 3
    assert sad.rate < neutral.rate < excited.rate


def test_what_cannot_be_measured_is_none() -> None:
    assert measure(Waveform(np.zeros(8_000, np.float32), 16_000), "it is") is None
    assert measure(pulses(100.0), "12") is None
    assert measure(Waveform(np.zeros(0, np.float32), 16_000), "it is") is None
