"""Sounds of known voices, and ways to disturb them that a judge should notice, or should not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
import soxr

from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.synthesizer import synthesize
from wavalign.plugins.speech.world.styles import STYLES, UNSEEN_VOICES

Array = npt.NDArray[np.float32]
RATE = 16_000
SENTENCES = (
    "My brother lives near the old station.",
    "Paris is the capital of France.",
    "She bought seven yellow umbrellas yesterday.",
    "The opposite of hot is cold.",
)
VOICES = ("eSpeak", "neural")
_PAUSE_SECONDS = 0.6
_FRAME, _HOP = 512, 128
"""Samples of the spectrum by which time is stretched."""


@final
@dataclass(frozen=True, slots=True)
class Case:
    """A disturbed sound; what it should have said is the sentence of its clean one."""

    voice: str
    sentence: int
    """Number in `SENTENCES`."""


@cache
def spoken(voice: str, text: str) -> Waveform:
    """`text` at 16 kHz."""
    if voice == "eSpeak":
        return synthesize(text, STYLES[0].answer)
    if voice == "eSpeak, a woman":
        return synthesize(text, replace(STYLES[0].answer, voice=UNSEEN_VOICES[1]))
    sound = np.asarray(_neural()(text, seed=0), dtype=np.float32)
    return Waveform(np.asarray(soxr.resample(sound, 24_000, RATE), dtype=np.float32), RATE)


@cache
def _neural() -> Any:
    import hibari

    return hibari.Hibari()


def _clean(case: Case) -> Waveform:
    return spoken(case.voice, SENTENCES[case.sentence])


def _noisy(decibels: float, change: Callable[[Array], Array] = np.asarray) -> Callable[[Case], Waveform]:
    """White noise so far under the speech."""

    def made(case: Case) -> Waveform:
        samples = change(_clean(case).samples)
        noise = np.random.default_rng(case.sentence).standard_normal(len(samples))
        level = float(np.sqrt(np.mean(samples**2))) * 10 ** (-decibels / 20)
        return Waveform((samples + level * noise).astype(np.float32), RATE)

    return made


def _changed(change: Callable[[Array], Array]) -> Callable[[Case], Waveform]:
    return lambda case: Waveform(np.asarray(change(_clean(case).samples), dtype=np.float32), RATE)


def _paused(samples: Array) -> Array:
    """A pause where the sound is quietest near its middle."""
    middle, reach, frame = len(samples) // 2, RATE // 4, RATE // 50
    parts = samples[middle - reach : middle + reach]
    loud = np.convolve(parts**2, np.ones(frame), mode="same")
    place = middle - reach + int(loud.argmin())
    pause = np.zeros(int(_PAUSE_SECONDS * RATE), np.float32)
    return np.concatenate([samples[:place], pause, samples[place:]])


def stretched(samples: Array, factor: float) -> Array:
    """`samples` [N] in `factor` times the time at the same pitch: a phase vocoder (Flanagan and Golden, 1966)."""
    window = np.hanning(_FRAME + 1)[:-1]
    padded = np.pad(samples, (_FRAME, 2 * _FRAME))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FRAME)[::_HOP]
    spectrum = np.fft.rfft(frames * window, axis=1)
    expected = 2 * np.pi * _HOP * np.fft.rfftfreq(_FRAME)
    places = np.arange(0, len(spectrum) - 1, 1 / factor)
    phase, sound = np.angle(spectrum[0]), np.zeros(len(places) * _HOP + _FRAME)
    for index, place in enumerate(places):
        left, right = spectrum[int(place)], spectrum[int(place) + 1]
        share = place - int(place)
        size = (1 - share) * np.abs(left) + share * np.abs(right)
        sound[index * _HOP : index * _HOP + _FRAME] += np.fft.irfft(size * np.exp(1j * phase)) * window
        step = np.angle(right) - np.angle(left) - expected
        phase = phase + expected + step - 2 * np.pi * np.round(step / (2 * np.pi))
    start = round(_FRAME * factor)
    return (sound / 1.5)[start : start + round(len(samples) * factor)].astype(np.float32)


def shifted(samples: Array, semitones: float) -> Array:
    """`samples` [N] at another pitch in the same time; formants move with it."""
    factor = 2 ** (semitones / 12)
    return np.asarray(soxr.resample(stretched(samples, factor), RATE * factor, RATE), dtype=np.float32)


def _other_speaker(case: Case) -> Waveform:
    return spoken("eSpeak, a woman" if case.voice == "eSpeak" else "eSpeak", SENTENCES[case.sentence])


def _other_words(case: Case) -> Waveform:
    return spoken(case.voice, SENTENCES[(case.sentence + 1) % len(SENTENCES)])


def _white(case: Case) -> Waveform:
    return Waveform((0.1 * np.random.default_rng(case.sentence).standard_normal(2 * RATE)).astype(np.float32), RATE)


def _hum(_: Case) -> Waveform:
    time = np.arange(2 * RATE) / RATE
    tones = np.sum([np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 8)], axis=0)
    return Waveform((0.08 * tones).astype(np.float32), RATE)


CASES: Final[Mapping[str, Callable[[Case], Waveform]]] = {
    "as spoken": _clean,
    "white noise, 20 dB": _noisy(20.0),
    "white noise, 10 dB": _noisy(10.0),
    "white noise, 0 dB": _noisy(0.0),
    "20 dB quieter": _changed(lambda samples: samples * np.float32(0.1)),
    "1.3 times slower": _changed(lambda samples: stretched(samples, 1.3)),
    "1.5 times faster": _changed(lambda samples: stretched(samples, 1 / 1.5)),
    "4 semitones up": _changed(lambda samples: shifted(samples, 4.0)),
    "said three times": _changed(lambda samples: np.tile(samples, 3)),
    "a pause of 0.6 s": _changed(_paused),
    "the pause, noise at 20 dB": _noisy(20.0, _paused),
    "2 s of silence behind": _changed(lambda samples: np.pad(samples, (0, 2 * RATE))),
    "first half only": _changed(lambda samples: samples[: len(samples) // 2]),
    "backwards": _changed(lambda samples: samples[::-1].copy()),
    "another speaker": _other_speaker,
    "other words": _other_words,
    "noise alone": _white,
    "hum alone": _hum,
    "silence": _changed(lambda samples: samples * np.float32(0.0)),
}
"""By what a reader calls it."""
