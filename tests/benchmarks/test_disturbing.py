"""The sounds that local judges are shown: each is disturbed in what it is said to be, and in nothing else."""

import numpy as np
import pytest

from benchmarks.disturbing import CASES, RATE, Case, shifted, stretched
from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.facets import facets

CASE = Case("eSpeak", 0)


def of(samples: np.ndarray) -> Waveform:
    return Waveform(samples.astype(np.float32), RATE)


@pytest.mark.parametrize("factor", [1 / 1.5, 1.3])
def test_another_pace_is_the_same_pitch(factor: float) -> None:
    clean = CASES["as spoken"](CASE)
    changed = of(stretched(clean.samples, factor))
    assert changed.seconds == pytest.approx(clean.seconds * factor, rel=0.01)
    assert facets(changed, "")["pitch"] == pytest.approx(facets(clean, "")["pitch"], rel=0.03)
    assert facets(changed, "")["level"] == pytest.approx(facets(clean, "")["level"], abs=4.0)


def test_another_pitch_is_the_same_pace() -> None:
    clean = CASES["as spoken"](CASE)
    changed = of(shifted(clean.samples, 4.0))
    assert changed.seconds == pytest.approx(clean.seconds, rel=0.01)
    moved = 12 * np.log2(facets(changed, "")["pitch"] / facets(clean, "")["pitch"])
    assert moved == pytest.approx(4.0, abs=0.4)


def test_noise_lies_so_far_under_the_speech() -> None:
    clean, noisy = (CASES[name](CASE).samples for name in ("as spoken", "white noise, 10 dB"))
    ratio = np.mean(clean**2) / np.mean((noisy - clean) ** 2)
    assert 10 * np.log10(ratio) == pytest.approx(10.0, abs=0.3)


def test_the_rest_is_what_it_is_called() -> None:
    clean = CASES["as spoken"](CASE).samples
    assert np.array_equal(CASES["backwards"](CASE).samples[::-1], clean)
    assert len(CASES["said three times"](CASE).samples) == 3 * len(clean)
    assert not CASES["silence"](CASE).samples.any()
    assert len(CASES["2 s of silence behind"](CASE).samples) == len(clean) + 2 * RATE
    assert not np.array_equal(CASES["other words"](CASE).samples[:100], CASES["another speaker"](CASE).samples[:100])


def test_the_pause_is_one_until_noise_fills_it() -> None:
    clean, paused, filled = (
        CASES[name](CASE) for name in ("as spoken", "a pause of 0.6 s", "the pause, noise at 20 dB")
    )
    assert paused.seconds == filled.seconds == pytest.approx(clean.seconds + 0.6)
    assert facets(paused, "")["pauses"] > 0.15 and facets(filled, "")["pauses"] == 0.0
