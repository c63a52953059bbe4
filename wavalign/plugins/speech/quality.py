"""Speech quality without a reference: the two DNSMOS networks, run directly on one window.

A clip is repeated (or cut) to exactly 9.01 s, the window the networks were trained on. Scores are on the 1..5 scale of
listening tests; on synthetic voices only differences mean something. Source: Reddy, Gopal and Cutler, "DNSMOS P.835"
(2022) and "DNSMOS" (2021); the networks come with the package speechmos.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, final

import numpy as np
import numpy.typing as npt
import onnxruntime
import soxr

from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.shipped import Shipped

INSTRUMENT = "the networks of DNSMOS"
SAMPLE_RATE = 16_000
_WINDOW = int(9.01 * SAMPLE_RATE)
_NUM_MELS, _FFT, _HOP = 120, 321, 160
_POLYNOMIALS = (
    (-0.08397278, 1.22083953, 0.0052439),
    (-0.13166888, 1.60915514, -0.39604546),
    (-0.06766283, 1.11546468, 0.04602535),
)
"""Published polynomials from the network's outputs (signal, background, overall) to the P.835 scale."""
_INSTALL = 'pip install "wavalign[speech]"'
_P808 = Shipped(
    "speechmos==0.0.1.1",
    "speechmos",
    "dnsmos_models/model_v8.onnx",
    "9246480c58567bc6affd4200938e77eef49468c8bc7ed3776d109c07456f6e91",
    "the speech quality of DNSMOS",
    _INSTALL,
)
_P835 = replace(
    _P808,
    path="dnsmos_models/sig_bak_ovr.onnx",
    sha256="269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd",
)
_SILENCE = 1e-4


@final
@dataclass(frozen=True, slots=True)
class Quality:
    """Predicted mean opinion scores."""

    p808: float
    """Overall quality as in ITU-T P.808."""
    overall: float | None
    """Overall quality as in ITU-T P.835; None when it was not asked for (ten times the price of the other)."""
    signal: float | None = None
    """Quality of the speech alone as in P.835, which may rise in noise: nothing to optimise."""
    background: float | None = None
    """How little the background intrudes, as in P.835."""


def assess(waveform: Waveform, *, overall: bool = False) -> Quality | None:
    """Score `waveform`; None for silence and for no sound."""
    samples = waveform.samples
    if waveform.sample_rate != SAMPLE_RATE and len(samples):
        samples = soxr.resample(samples, waveform.sample_rate, SAMPLE_RATE)
    if len(samples) == 0 or float(np.abs(samples).max()) < _SILENCE:
        return None
    window = np.resize(np.clip(samples, -1.0, 1.0), _WINDOW).astype(np.float32)
    p808 = _session(_P808).run(None, {"input_1": _mels(window[:-_HOP])[None]})[0]
    if not overall:
        return Quality(float(p808[0][0]), None)
    raw = _session(_P835).run(None, {"input_1": window[None]})[0][0]
    signal, background, whole = (float(np.polyval(each, x)) for each, x in zip(_POLYNOMIALS, raw, strict=True))
    return Quality(float(p808[0][0]), whole, signal, background)


def check_installed(*, overall: bool) -> None:
    """Raise PluginError where the networks are missing or others, before anything is asked."""
    for each in (_P808, _P835) if overall else (_P808,):
        each.file()


@cache
def _session(network: Shipped) -> Any:
    """A network of the package, found without importing it: its own imports are heavy and not needed."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(network.file()), options, providers=["CPUExecutionProvider"])


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
