"""Speaker embeddings: sound to a vector [256] of length 1 that says whose voice it is.

    mel        power spectrogram in 40 bands on Slaney's scale, windows of 25 ms every 10 ms, no logarithm
    partial    160 frames (1.6 s); so many that they overlap by half and cover the sound, the last one padded with zeros
    vector     3 LSTM layers of 256, the last state, a linear layer, positive parts, length 1
    embedding  mean over the partials, length 1

Source: Wan et al., "Generalized End-to-End Loss for Speaker Verification" (arXiv 1710.10467); the weights come with the
package resemblyzer, whose file is read without importing it: its own imports no longer work beside current packages.
What differs from the package: pauses are not cut out by a voice detector.
"""

from functools import cache
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import soxr
import torch
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank, spectrogram

from wavalign.errors import PluginError
from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.shipped import Shipped

INSTRUMENT = "the speaker embeddings of resemblyzer"
INSTALL = "pip install --no-deps resemblyzer==0.1.4"
SAMPLE_RATE = 16_000
_WEIGHTS = Shipped(
    "resemblyzer==0.1.4",
    "resemblyzer",
    "pretrained.pt",
    "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
    "the speaker encoder",
    INSTALL,
)
_WINDOW, _HOP, _BANDS = 400, 160, 40
_PARTIAL = 160
"""Frames of a partial."""
_STEP = 77
"""Frames from one partial to the next: 1.3 a second."""
_COVERED = 0.75
"""The last partial is left out where less of it is sound, unless it is the only one."""
_LOUDNESS = 10 ** (-30 / 20)
"""Root mean square that quieter sound is raised to."""
_SILENCE = 1e-4


@final
class SpeakerEncoder(nn.Module):
    """The network; parameter names are those of the file."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_BANDS, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mels: Tensor) -> Tensor:
        """Vectors [B, 256] of `mels` [B, 160, 40]."""
        _, (state, _) = self.lstm(mels)
        return nn.functional.normalize(torch.relu(self.linear(state[-1])), dim=1)


def speaker_embedding(waveform: Waveform) -> npt.NDArray[np.float64] | None:
    """Embedding [256] of length 1; None for silence and for no sound. Raises PluginError without the weights."""
    samples = waveform.samples
    if waveform.sample_rate != SAMPLE_RATE and len(samples):
        samples = soxr.resample(samples, waveform.sample_rate, SAMPLE_RATE)
    if len(samples) == 0 or float(np.abs(samples).max()) < _SILENCE:
        return None
    loudness = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    samples = samples * np.float32(max(1.0, _LOUDNESS / loudness))
    starts = _starts(len(samples))
    padded = np.pad(samples, (0, max(0, (starts[-1] + _PARTIAL) * _HOP - len(samples))))
    mel = _mel(padded)
    partials = torch.from_numpy(np.stack([mel[start : start + _PARTIAL] for start in starts]))
    with torch.inference_mode():
        vectors = encoder()(partials).double().numpy()
    mean = vectors.mean(axis=0)
    return np.asarray(mean / np.linalg.norm(mean), dtype=np.float64)


def _starts(num_samples: int) -> list[int]:
    """First frames of the partials of so many samples."""
    frames = -(-(num_samples + 1) // _HOP)
    starts = list(range(0, max(1, frames - _PARTIAL + _STEP + 1), _STEP))
    covered = (num_samples - starts[-1] * _HOP) / (_PARTIAL * _HOP)
    return starts[:-1] if covered < _COVERED and len(starts) > 1 else starts


def _mel(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Power [frames, 40]."""
    found = spectrogram(
        samples.astype(np.float64),
        np.hanning(_WINDOW + 1)[:-1],
        frame_length=_WINDOW,
        hop_length=_HOP,
        power=2.0,
        pad_mode="constant",
        mel_filters=_filters(),
        mel_floor=0.0,
    )
    return np.asarray(found.T, dtype=np.float32)


@cache
def _filters() -> npt.NDArray[np.float64]:
    filters = mel_filter_bank(
        num_frequency_bins=_WINDOW // 2 + 1,
        num_mel_filters=_BANDS,
        min_frequency=0.0,
        max_frequency=SAMPLE_RATE / 2,
        sampling_rate=SAMPLE_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    return np.asarray(filters, dtype=np.float64)


@cache
def encoder() -> SpeakerEncoder:
    """The network with its weights; raises PluginError where the package is not there or is another."""
    path = weights_file()
    try:
        stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
        network = SpeakerEncoder()
        network.load_state_dict({name: stored[name] for name in network.state_dict()})
    except (OSError, KeyError, RuntimeError, TypeError) as error:
        raise PluginError(f"{path} holds no speaker encoder: {error}", hint=INSTALL) from error
    return network.eval().requires_grad_(False)


def weights_file() -> Path:
    """The package's file; raises PluginError where the package is not installed or is another release."""
    return _WEIGHTS.file()
