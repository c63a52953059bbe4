"""Speech quality without a reference: the two DNSMOS networks, run directly on one window.

A clip is repeated (or cut) to exactly 9.01 s, the window the networks were trained on. Scores are on the 1..5 scale of
listening tests; on synthetic voices only differences mean something. Source: Reddy, Gopal and Cutler, "DNSMOS P.835"
(2022) and "DNSMOS" (2021); the networks come with the package speechmos.
"""

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import onnxruntime
import soxr

from wavalign.errors import PluginError
from wavalign.plugins.batch import Waveform

INSTRUMENT = "the networks of DNSMOS"
SAMPLE_RATE = 16_000
_WINDOW = int(9.01 * SAMPLE_RATE)
_NUM_MELS, _FFT, _HOP = 120, 321, 160
_OVERALL = (-0.06766283, 1.11546468, 0.04602535)
"""Published polynomial from the network's third output to the P.835 scale."""
_SILENCE = 1e-4


@final
@dataclass(frozen=True, slots=True)
class Quality:
    """Predicted mean opinion scores."""

    p808: float
    """Overall quality as in ITU-T P.808."""
    overall: float | None
    """Overall quality as in ITU-T P.835; None when it was not asked for (ten times the price of the other)."""


def assess(waveform: Waveform, *, overall: bool = False) -> Quality | None:
    """Score `waveform`; None for silence and for no sound."""
    samples = waveform.samples
    if waveform.sample_rate != SAMPLE_RATE and len(samples):
        samples = soxr.resample(samples, waveform.sample_rate, SAMPLE_RATE)
    if len(samples) == 0 or float(np.abs(samples).max()) < _SILENCE:
        return None
    window = np.resize(np.clip(samples, -1.0, 1.0), _WINDOW).astype(np.float32)
    p808 = _session("model_v8.onnx").run(None, {"input_1": _mels(window[:-_HOP])[None]})[0]
    score: float | None = None
    if overall:
        raw = _session("sig_bak_ovr.onnx").run(None, {"input_1": window[None]})[0]
        score = float(np.polyval(_OVERALL, raw[0][2]))
    return Quality(float(p808[0][0]), score)


@cache
def _session(name: str) -> Any:
    """A network of the package, found without importing it: its own imports are heavy and not needed."""
    found = importlib.util.find_spec("speechmos")
    if found is None or found.origin is None:
        raise PluginError("speech quality needs the package speechmos", hint='pip install "wavalign[speech]"')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = Path(found.origin).parent / "dnsmos_models" / name
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _mels(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Log-mel spectrogram [frames, 120] as the P.808 network was trained on: (dB below the peak + 40) / 40."""
    padded = np.pad(samples, _FFT // 2)
    count = 1 + (len(padded) - _FFT) // _HOP
    parts = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::_HOP][:count]
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(_FFT) / _FFT)
    power = np.abs(np.fft.rfft(parts * hann.astype(np.float32), axis=1)) ** 2 @ _filters().T
    decibels = 10.0 * np.log10(np.maximum(power, 1e-10))
    decibels = np.maximum(decibels - 10.0 * np.log10(max(float(power.max()), 1e-10)), -80.0)
    return np.asarray((decibels + 40.0) / 40.0, dtype=np.float32)


@cache
def _filters() -> npt.NDArray[np.float32]:
    """Area-normalised triangles [120, bins] on Slaney's mel scale: linear to 1 kHz, then 27 steps a factor of 6.4."""
    top = 15.0 + 27.0 * np.log(SAMPLE_RATE / 2 / 1000.0) / np.log(6.4)
    mels = np.linspace(0.0, top, _NUM_MELS + 2)
    edges = np.where(mels < 15.0, mels * 200.0 / 3.0, 1000.0 * 6.4 ** ((mels - 15.0) / 27.0))
    frequency = np.fft.rfftfreq(_FFT, 1.0 / SAMPLE_RATE)
    rows = []
    for left, centre, right in zip(edges[:-2], edges[1:-1], edges[2:], strict=True):
        rise, fall = (frequency - left) / (centre - left), (right - frequency) / (right - centre)
        rows.append(np.maximum(np.minimum(rise, fall), 0.0) * 2.0 / (right - left))
    return np.stack(rows).astype(np.float32)
