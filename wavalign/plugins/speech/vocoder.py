"""Sound as a mel-cepstral envelope plus a pulse or noise source, and back.

Analysis: per frame (20 ms) the orthonormal DCT of a log-mel spectrum and the pitch. Synthesis: unit-power pulses at the
pitch (noise above 4.5 kHz and where unvoiced), filtered frame by frame in the short-time Fourier domain and overlapped.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, final

import numpy as np
import numpy.typing as npt

from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.prosody import Array, frames, track

Spectra = npt.NDArray[np.complexfloating[Any, Any]]

SAMPLE_RATE = 16_000
HOP = 320
"""Samples between frames: 20 ms."""
NUM_CEPSTRA = 25
_NUM_MELS = 48
_WINDOW = 512
_STEP = 160
"""Samples between the synthesis windows: two a frame."""
_NOISE_FROM = 4500.0
_NOISE_WIDTH = 700.0
_POWER_FLOOR = 1e-9
_RAMP = 0.5


@final
@dataclass(frozen=True, slots=True)
class Frames:
    """Parameters of F frames."""

    cepstra: Array
    """[F, NUM_CEPSTRA]; the first is the level."""
    pitch: Array
    """[F] Hz, 0 where unvoiced."""


def analyse(waveform: Waveform) -> Frames:
    """Take `waveform` (16 kHz) apart; F = ceil(N / HOP)."""
    if len(waveform.samples) == 0:
        return Frames(np.zeros((0, NUM_CEPSTRA), np.float32), np.zeros(0, np.float32))
    window = np.hanning(_WINDOW).astype(np.float32)
    parts = frames(waveform.samples, length=_WINDOW, hop=HOP) * window
    power = np.abs(np.fft.rfft(parts, axis=1)) ** 2 / np.sum(window**2)
    mels = np.log(power @ _mel_filters().T + _POWER_FLOOR)
    return Frames((mels @ _cosines().T).astype(np.float32), track(waveform, hop=HOP).pitch)


def synthesise(parameters: Frames) -> Waveform:
    """Sound of `parameters`, F * HOP samples at 16 kHz; the same parameters give the same samples."""
    count = len(parameters.pitch)
    if count == 0:
        return Waveform(np.zeros(0, np.float32), SAMPLE_RATE)
    length = count * HOP
    voicing, pitch = _contour(parameters.pitch, length)
    steps = -(-length // _STEP)
    place = ((np.arange(steps) + 0.5) * _STEP / HOP - 0.5).clip(0.0, count - 1)
    amplitude = np.exp(0.5 * _between(parameters.cepstra, place) @ _cosines() @ _mel_to_bins())
    voiced = voicing[((np.arange(steps) + 0.5) * _STEP).astype(int).clip(max=length - 1), None]
    frequency = np.fft.rfftfreq(_WINDOW, 1.0 / SAMPLE_RATE)
    pulse_share = voiced / (1.0 + np.exp((frequency - _NOISE_FROM) / _NOISE_WIDTH))
    pulses = _spectra(_pulses(pitch), steps) * np.sqrt(pulse_share)
    noise = _spectra(_noise(length), steps) * np.sqrt(1.0 - pulse_share)
    samples = _overlap((pulses + noise) * amplitude, length)
    return Waveform(np.clip(samples, -1.0, 1.0).astype(np.float32), SAMPLE_RATE)


def _contour(pitch: Array, length: int) -> tuple[Array, Array]:
    """Voicing (0 or 1) and pitch in Hz per sample [N], the pitch drawn through unvoiced frames."""
    count = len(pitch)
    centres = (np.arange(count) + 0.5) * HOP
    voicing = (np.arange(length) // HOP).clip(max=count - 1)
    voiced = pitch > 0.0
    if not voiced.any():
        return np.zeros(length, np.float32), np.full(length, 100.0, np.float32)
    line = np.interp(np.arange(length), centres[voiced], np.log(pitch[voiced]))
    return voiced[voicing].astype(np.float32), np.exp(line).astype(np.float32)


def _pulses(pitch: Array) -> Array:
    """Pulse train of unit power following `pitch` [N] Hz."""
    cycles = np.cumsum(pitch, dtype=np.float64) / SAMPLE_RATE
    starts = np.flatnonzero(np.diff(np.floor(cycles), prepend=0.0) > 0.0)
    train = np.zeros(len(pitch), np.float32)
    train[starts] = np.sqrt(SAMPLE_RATE / pitch[starts])
    return train


def _noise(length: int) -> Array:
    return np.random.default_rng(0).standard_normal(length).astype(np.float32)


def _spectra(samples: Array, steps: int) -> Spectra:
    parts = frames(samples, length=_WINDOW, hop=_STEP)[:steps]
    return np.fft.rfft(parts * np.hanning(_WINDOW).astype(np.float32), axis=1)


def _overlap(spectra: Spectra, length: int) -> Array:
    """Add the windows up to [N] and divide by what a constant would have become."""
    steps = len(spectra)
    parts = np.fft.irfft(spectra, axis=1)
    before = (_WINDOW - _STEP) // 2
    total = np.zeros(steps * _STEP + _WINDOW, np.float64)
    weight = np.zeros_like(total)
    window = np.hanning(_WINDOW)
    for index in range(steps):
        total[index * _STEP : index * _STEP + _WINDOW] += parts[index]
        weight[index * _STEP : index * _STEP + _WINDOW] += window
    kept = slice(before, before + length)
    return np.asarray(total[kept] / np.maximum(weight[kept], _RAMP), np.float32)


def _between(rows: Array, place: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Array:
    """Rows [F, D] at fractional places [N], linearly."""
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, len(rows) - 1)
    share = (place - low)[:, None]
    return np.asarray(rows[low] * (1.0 - share) + rows[high] * share, np.float32)


@cache
def _mel_centres() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Band edges and centres in Hz [M + 2]: equal steps of 2595 log10(1 + f / 700)."""
    top = 2595.0 * np.log10(1.0 + SAMPLE_RATE / 2 / 700.0)
    return np.asarray(700.0 * (10.0 ** (np.linspace(0.0, top, _NUM_MELS + 2) / 2595.0) - 1.0))


@cache
def _mel_filters() -> Array:
    """Triangles [M, bins] that sum to one: each band is a mean power."""
    edges, frequency = _mel_centres(), np.fft.rfftfreq(_WINDOW, 1.0 / SAMPLE_RATE)
    bins = SAMPLE_RATE / _WINDOW
    rows = []
    for left, centre, right in zip(edges[:-2], edges[1:-1], edges[2:], strict=True):
        width_left, width_right = max(centre - left, bins), max(right - centre, bins)
        rise, fall = 1.0 - (centre - frequency) / width_left, 1.0 - (frequency - centre) / width_right
        triangle = np.maximum(np.minimum(rise, fall), 0.0)
        rows.append(triangle / triangle.sum())
    return np.stack(rows).astype(np.float32)


@cache
def _mel_to_bins() -> Array:
    """Weights [M, bins] that draw a line through the band centres."""
    frequency = np.fft.rfftfreq(_WINDOW, 1.0 / SAMPLE_RATE)
    centres = _mel_centres()[1:-1]
    columns = [np.interp(frequency, centres, row) for row in np.eye(_NUM_MELS)]
    return np.stack(columns).astype(np.float32)


@cache
def _cosines() -> Array:
    """Orthonormal DCT-II, first NUM_CEPSTRA rows [C, M]."""
    index = (np.arange(_NUM_MELS) + 0.5) / _NUM_MELS
    rows = np.cos(np.pi * np.arange(NUM_CEPSTRA)[:, None] * index) * np.sqrt(2.0 / _NUM_MELS)
    rows[0] /= np.sqrt(2.0)
    return np.asarray(rows, np.float32)
