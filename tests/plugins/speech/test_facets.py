"""Facets of prosody of sounds whose pitch, level and pauses are known."""

import math

import numpy as np
import pytest

from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.facets import FACETS, distance, facets

RATE = 16_000


def buzz(pitch: np.ndarray, level: float = 0.1) -> np.ndarray:
    """Harmonics of a pitch [N] in Hz, root mean square `level`."""
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    samples = sum(np.sin(k * phase) / k for k in range(1, 8))
    return np.asarray(samples / np.sqrt(np.mean(samples**2)) * level, np.float32)


def sound(*parts: np.ndarray) -> Waveform:
    return Waveform(np.concatenate(parts).astype(np.float32), RATE)


def steady(hertz: float, seconds: float, level: float = 0.1) -> np.ndarray:
    return buzz(np.full(round(seconds * RATE), hertz), level)


def quiet(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


def test_a_steady_tone() -> None:
    found = facets(sound(steady(150.0, 2.0)), "ten letters")
    assert found["pitch"] == pytest.approx(150.0, rel=0.01)
    assert found["pitch_range"] < 0.1
    assert found["level"] == pytest.approx(-20.0, abs=0.3)
    assert found["rate"] == pytest.approx(5.0, abs=0.1) and found["pauses"] == 0.0


def test_the_range_of_a_glide_is_from_its_tenth_to_its_ninetieth_percentile() -> None:
    """An octave at an even pace in semitones: eight tenths of twelve."""
    time = np.linspace(0, 1, 3 * RATE)
    found = facets(sound(buzz(100 * 2**time)), "")
    assert found["pitch_range"] == pytest.approx(9.6, abs=0.3)
    assert found["pitch"] == pytest.approx(100 * math.sqrt(2), rel=0.02)
    assert "rate" not in found


def test_pauses_are_those_between_first_and_last_sound_that_are_long_enough() -> None:
    """0.4 s of 2.1 s; neither silence before and behind nor a gap of 0.1 s counts."""
    parts = (quiet(0.5), steady(120, 0.8), quiet(0.4), steady(120, 0.4), quiet(0.1), steady(120, 0.4), quiet(1.0))
    found = facets(sound(*parts), "")
    assert found["pauses"] == pytest.approx(0.4 / 2.1, abs=0.03)


def test_what_cannot_be_measured_is_left_out() -> None:
    assert facets(sound(quiet(1.0)), "words") == facets(sound(quiet(0.0)), "words") == {}
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE)
    found = facets(sound(noise), "words")
    assert "pitch" not in found and "pitch_range" not in found and {"level", "rate", "pauses"} <= set(found)


def test_another_rate_of_sampling_is_the_same_voice() -> None:
    time = np.arange(48_000) / 24_000
    other = Waveform((0.1 * np.sign(np.sin(2 * np.pi * 180 * time))).astype(np.float32), 24_000)
    assert facets(other, "")["pitch"] == pytest.approx(180.0, rel=0.01)


@pytest.mark.parametrize(
    ("value", "low", "high", "far"),
    [(5.0, 4.0, 6.0, 0.0), (3.0, 4.0, 6.0, 1.0), (8.5, 4.0, 6.0, 2.5), (9.0, 4.0, None, 0.0), (-2.0, None, -5.0, 3.0)],
)
def test_distance_from_a_band(value: float, low: float | None, high: float | None, far: float) -> None:
    assert distance("level", value, low=low, high=high) == pytest.approx(far)


def test_pitch_is_far_in_semitones() -> None:
    assert distance("pitch", 200.0, low=50.0, high=100.0) == pytest.approx(12.0)
    assert distance("pitch", 100.0, low=200.0, high=None) == pytest.approx(12.0)
    assert FACETS == ("pitch", "pitch_range", "level", "rate", "pauses")
