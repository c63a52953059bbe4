"""Pitch by autocorrelation and the few numbers that describe how something was said.

Pitch: the power spectrum of a Hann frame, kept below 1.2 kHz, transformed back and divided by the window's own
autocorrelation (Boersma, "Accurate short-term analysis of the fundamental frequency", 1993), then the shortest lag
whose peak comes near the highest one.
"""

from dataclasses import dataclass
from functools import cache
from typing import final

import numpy as np
import numpy.typing as npt

from wavalign.plugins.batch import Waveform

Array = npt.NDArray[np.float32]

PITCH_RANGE = (55.0, 400.0)
"""Hertz."""
_FRAME_SECONDS = 0.04
_PITCH_BAND = 1200.0
_CANDIDATES = 6
_VOICED = 0.45
"""Strength of the unvoiced candidate."""
_OCTAVE_COST = 0.03
"""For every octave a candidate lies below the highest pitch."""
_LEAP_COST = 0.7
"""For every octave between neighbours."""
_SWITCH_COST = 0.14
"""For every change between voiced and unvoiced."""
_FLOOR_DB = -100.0
SOUNDING_DB = 35.0
"""A frame this far below the loudest is a pause."""
FEATURES = ("pitch", "pitch_spread", "rate", "level")


@final
@dataclass(frozen=True, slots=True)
class Track:
    """Pitch and level per frame [F]; frame i is centred on (i + 1/2) hops."""

    pitch: Array
    """[F] Hz, 0 where unvoiced."""
    level: Array
    """[F] dB re full scale."""


@final
@dataclass(frozen=True, slots=True)
class Prosody:
    """How an utterance was said."""

    pitch: float
    """Median, semitones re 100 Hz."""
    pitch_spread: float
    """Standard deviation, semitones."""
    rate: float
    """Letters a second, from the first to the last sounding frame."""
    level: float
    """Mean over sounding frames, dB re full scale."""

    def vector(self) -> npt.NDArray[np.float64]:
        """The four numbers in the order of `FEATURES` [4]."""
        return np.array([self.pitch, self.pitch_spread, self.rate, self.level], dtype=np.float64)


def frames(samples: Array, *, length: int, hop: int) -> Array:
    """Frames [F, length] centred on (i + 1/2) hops of `samples` [N], zeros beyond the ends; F = ceil(N / hop)."""
    count = -(-len(samples) // hop)
    before = (length - hop) // 2
    padded = np.zeros((count - 1) * hop + length + before, dtype=np.float32)
    padded[before : before + len(samples)] = samples
    return np.lib.stride_tricks.sliding_window_view(padded, length)[: count * hop : hop]


def track(waveform: Waveform, *, hop: int) -> Track:
    """Follow the pitch of `waveform` in steps of `hop` samples; F = ceil(N / hop), none for no sound."""
    if len(waveform.samples) == 0:
        return Track(np.zeros(0, np.float32), np.zeros(0, np.float32))
    rate = waveform.sample_rate
    length = int(_FRAME_SECONDS * rate)
    parts = frames(waveform.samples, length=length, hop=hop)
    level = 10.0 * np.log10(np.mean(parts**2, axis=1) + 10.0 ** (_FLOOR_DB / 10.0))
    correlation = _correlation(parts, rate)
    shortest, longest = int(rate / PITCH_RANGE[1]), int(rate / PITCH_RANGE[0])
    lags, strengths = _candidates(correlation[:, shortest - 1 : longest + 2], shortest)
    strengths[level <= level.max() - SOUNDING_DB] = -1.0
    pitch = _path((rate / lags).astype(np.float32), strengths)
    return Track(pitch.astype(np.float32), level.astype(np.float32))


def measure(waveform: Waveform, text: str) -> Prosody | None:
    """How `text` was said in `waveform`; None where nothing sounds, nothing is voiced or there is no letter."""
    hop = waveform.sample_rate // 100
    found = track(waveform, hop=hop)
    letters = sum(character.isalpha() for character in text)
    voiced = found.pitch[found.pitch > 0.0]
    if len(voiced) < 3 or letters == 0:
        return None
    sounding = np.flatnonzero(found.level > found.level.max() - SOUNDING_DB)
    seconds = float(sounding[-1] - sounding[0] + 1) / 100.0
    semitones = 12.0 * np.log2(voiced / 100.0)
    return Prosody(
        pitch=float(np.median(semitones)),
        pitch_spread=float(np.std(semitones)),
        rate=letters / seconds,
        level=float(np.mean(found.level[sounding])),
    )


def _correlation(parts: Array, rate: int) -> Array:
    """Normalised autocorrelation [F, L] of frames [F, L] below 1.2 kHz."""
    length = parts.shape[1]
    window, own = _window(length)
    centred = (parts - parts.mean(axis=1, keepdims=True)) * window
    spectrum = np.abs(np.fft.rfft(centred, 2 * length, axis=1)) ** 2
    spectrum[:, int(_PITCH_BAND / rate * 2 * length) :] = 0.0
    correlation = np.fft.irfft(spectrum, axis=1)[:, :length]
    normalised = correlation / (correlation[:, :1] + 1e-9) / own
    return np.asarray(normalised, dtype=np.float32)


@cache
def _window(length: int) -> tuple[Array, Array]:
    window = np.hanning(length).astype(np.float32)
    own = np.fft.irfft(np.abs(np.fft.rfft(window, 2 * length)) ** 2)[:length]
    return window, np.maximum(own / own[0], 1e-2).astype(np.float32)


def _candidates(correlation: Array, shortest: int) -> tuple[Array, Array]:
    """Lags with fractions and heights of the highest peaks of each row: [F, L] -> [F, C], [F, C]; -1 for no peak."""
    inner = correlation[:, 1:-1]
    peak = (inner >= correlation[:, :-2]) & (inner > correlation[:, 2:])
    height = np.where(peak, inner, -1.0)
    index = np.argpartition(-height, _CANDIDATES, axis=1)[:, :_CANDIDATES]
    row = np.arange(len(inner))[:, None]
    left, middle, right = correlation[row, index], inner[row, index], correlation[row, index + 2]
    bend = np.minimum(left - 2.0 * middle + right, -1e-6)
    shift = np.clip(0.5 * (left - right) / bend, -0.5, 0.5)
    return np.asarray(index + shortest + shift, np.float32), np.asarray(height[row, index], np.float32)


def _path(pitches: Array, strengths: Array) -> Array:
    """Pitch [F] of the cheapest path through candidates [F, C] and `unvoiced`, 0 where it is unvoiced."""
    octaves = np.log2(pitches)
    voiced_score = np.where(strengths > 0.0, strengths + _OCTAVE_COST * (octaves - np.log2(PITCH_RANGE[1])), -10.0)
    count, width = voiced_score.shape
    local = np.concatenate([voiced_score, np.full((count, 1), _VOICED)], axis=1)
    best, back = local[0], np.zeros((count, width + 1), dtype=np.int64)
    step = np.full((width + 1, width + 1), _SWITCH_COST)
    step[-1, -1] = 0.0
    for index in range(1, count):
        step[:-1, :-1] = _LEAP_COST * np.abs(octaves[index - 1][:, None] - octaves[index][None, :])
        total = best[:, None] - step
        back[index] = total.argmax(axis=0)
        best = total.max(axis=0) + local[index]
    chosen = int(best.argmax())
    path = np.zeros(count, dtype=np.float32)
    for index in range(count - 1, -1, -1):
        path[index] = pitches[index, chosen] if chosen < width else 0.0
        chosen = int(back[index, chosen])
    return path
