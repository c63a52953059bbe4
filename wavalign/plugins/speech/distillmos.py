"""Speech quality without a reference: Distill-MOS, a small network taught by one on top of XLS-R.

    spectrum   complex short-time spectrum, windows of 20 ms every 10 ms, magnitudes to the power of 0.3
    frames     6 convolutions of 3 x 3: every second frame, 4 bands of 256 channels
    score      7 transformer layers of 200 over 384 frames, attention pooling, 1 + 4 sigmoid

A clip is scaled to a peak of 1 and padded with zeros to 7.68 s; of a longer one the mean over windows a second apart is
taken, of one above 12.7 s over six that lie farther apart (the package takes more). The convolutions see only the
beginning of the zeros: what they make of the rest is known, which saves most of the time of a short clip. Source: Stahl
and Gamper, "Distillation and Pruning for Scalable Self-Supervised Representation-Based Speech Quality Assessment"
(arXiv 2502.05356); the weights come with the package distillmos, whose file is read without importing it: its own
imports (torchaudio) do not work beside current packages.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, final

import numpy as np
import numpy.typing as npt
import soxr
import torch
from torch import Tensor, nn
from torch.nn import functional

from wavalign.errors import PluginError
from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.shipped import Shipped

INSTRUMENT = "the network of Distill-MOS"
SAMPLE_RATE = 16_000
MAX_SECONDS = 30.0
"""Only so much of a sound is listened to: bounds the time of a call."""
_WEIGHTS = Shipped(
    "distillmos==0.9.1",
    "distillmos",
    "weights/distill_mos_v7.pt",
    "b18b3ac60227267cfb91e5d00ce22cc7b73716fd92f269484da1446e27031a40",
    "the quality predicted by Distill-MOS",
    "pip install --no-deps distillmos==0.9.1",
)
_WINDOW, _STEP = 122_880, 16_000
"""Samples of a window, and the most from one to the next."""
_MOST_WINDOWS = 6
_LENGTH, _HOP = 320, 160
_FRAME = 2 * _HOP
"""Samples from one frame of features to the next."""
_QUIET_FRAMES, _EDGE_FRAMES = 20, 6
"""Frames of zeros behind a clip that the convolutions see, and those at their end that know of it."""
_COMPRESSION = 0.3
_CHANNELS = (2, 64, 64, 128, 256, 256, 256)
_FRAMES, _BANDS, _WIDTH, _LAYERS, _HEADS = 384, 4, 200, 7, 8
_SILENCE = 1e-4


@final
class _Convolutions(nn.Module):
    """Sound to frames of features."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (given, wanted) in enumerate(pairwise(_CHANNELS)):
            stride = (1 if index == 0 else 2, 2 if index == len(_CHANNELS) - 2 else 1)
            layers += [nn.Conv2d(given, wanted, 3, stride=stride, padding=(0, 1)), nn.LeakyReLU(0.1)]
        self.cnn = nn.Sequential(*layers)

    def forward(self, samples: Tensor) -> Tensor:
        """Features [B, F, 1024] of `samples` [B, N]."""
        beyond = (_LENGTH - _HOP) // 2
        padded = functional.pad(samples, (beyond, beyond), mode="reflect")
        window = torch.hann_window(_LENGTH, device=samples.device)
        spectrum = torch.stft(padded, _LENGTH, _HOP, window=window, center=False, return_complex=True)
        magnitude = spectrum.abs().clamp(min=1e-12)
        compressed = torch.view_as_real(spectrum * magnitude ** (_COMPRESSION - 1.0)).permute(0, 3, 1, 2)
        found: Tensor = self.cnn(compressed)
        return found.flatten(1, 2).transpose(1, 2)


@final
class _Places(nn.Module):
    """Adds to every frame what says where it stands; the file holds the numbers."""

    pe: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pe", torch.zeros(1, _FRAMES, _WIDTH))

    def forward(self, frames: Tensor) -> Tensor:
        """Frames [B, 384, 200] to the same."""
        return frames + self.pe


@final
class _Encoder(nn.Module):
    """Transformer over normalised, narrowed frames."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(_CHANNELS[-1] * _BANDS)
        self.position_encoding = _Places()
        self.linear_proj = nn.Linear(_CHANNELS[-1] * _BANDS, _WIDTH)
        layer = nn.TransformerEncoderLayer(_WIDTH, _HEADS, 2 * _WIDTH, dropout=0.0, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, _LAYERS)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames [B, 384, 1024] to [B, 384, 200]."""
        narrow = self.linear_proj(_over_channels(self.norm, frames))
        found: Tensor = self.transformer_encoder(self.position_encoding(narrow))
        return found


@final
class _Pooling(nn.Module):
    """One number of all frames, weighted by attention."""

    def __init__(self) -> None:
        super().__init__()
        self.linear1 = nn.Linear(_WIDTH, 2 * _WIDTH)
        self.linear2 = nn.Linear(2 * _WIDTH, 1)
        self.linear3 = nn.Linear(_WIDTH, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames [B, 384, 200] to [B]."""
        share = torch.softmax(self.linear2(torch.relu(self.linear1(frames))), dim=1)
        score: Tensor = self.linear3((share * frames).sum(dim=1))
        return score.squeeze(-1)


@final
class _Head(nn.Module):
    """Frames to a score from 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_input = nn.BatchNorm1d(_CHANNELS[-1] * _BANDS)
        self.transformer = _Encoder()
        self.norm_trans = nn.BatchNorm1d(_WIDTH)
        self.pool = _Pooling()

    def forward(self, frames: Tensor) -> Tensor:
        """Frames [B, 384, 1024] to [B]."""
        found = self.transformer(_over_channels(self.norm_input, frames))
        return torch.sigmoid(self.pool(_over_channels(self.norm_trans, found)))


def _over_channels(norm: nn.Module, frames: Tensor) -> Tensor:
    """Normalise frames [B, F, C] channel by channel."""
    found: Tensor = norm(frames.transpose(1, 2))
    return found.transpose(1, 2)


@final
class DistillMos(nn.Module):
    """The network; parameter names are those of the file."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = _Convolutions()
        self.transformer_pool_attn = _Head()

    def forward(self, features: Tensor) -> Tensor:
        """Scores [B] from 1 to 5 of the features [B, 384, 1024] of windows."""
        score: Tensor = self.transformer_pool_attn(features)
        return 1.0 + 4.0 * score

    def features(self, samples: Tensor) -> Tensor:
        """Those [1, 384, 1024] of samples [1, N] at 16 kHz and the zeros that fill their window."""
        frames = -(-samples.shape[1] // _FRAME) + _QUIET_FRAMES
        if frames >= _FRAMES:
            found: Tensor = self.cnn(functional.pad(samples, (0, _WINDOW - samples.shape[1])))
            return found
        near = self.cnn(functional.pad(samples, (0, frames * _FRAME - samples.shape[1])))
        return torch.cat([near[:, : frames - _EDGE_FRAMES], _silence()[:, frames - _EDGE_FRAMES :]], dim=1)


def predicted_quality(waveform: Waveform) -> float | None:
    """Opinion score 1 to 5; None for silence and for no sound. Raises PluginError without the weights."""
    samples = waveform.samples[: int(MAX_SECONDS * waveform.sample_rate)]
    if waveform.sample_rate != SAMPLE_RATE and len(samples):
        samples = soxr.resample(samples, waveform.sample_rate, SAMPLE_RATE)
    if len(samples) == 0 or float(np.abs(samples).max()) < _SILENCE:
        return None
    with torch.inference_mode():
        scores = [network()(network().features(each)) for each in _windows(samples)]
        return float(torch.cat(scores).mean())


def window_starts(num_samples: int) -> Sequence[int]:
    """First samples of the windows, which end with the sound and lie no more than a second apart."""
    beyond = max(num_samples - _WINDOW, 0)
    count = min(math.ceil(beyond / _STEP) + 1, _MOST_WINDOWS)
    return [int(place * beyond) for place in np.linspace(0.0, 1.0, count)]


def _windows(samples: npt.NDArray[np.float32]) -> Iterator[Tensor]:
    """Windows [1, N] of `samples`, each with a peak of 1."""
    for start in window_starts(len(samples)):
        part = samples[start : start + _WINDOW]
        yield torch.from_numpy(part / np.float32(float(np.abs(part).max()) + 1e-8))[None]


@cache
def _silence() -> Tensor:
    """Features [1, 384, 1024] of a window of zeros."""
    with torch.inference_mode():
        found: Tensor = network().cnn(torch.zeros(1, _WINDOW))
        return found


def check_installed() -> None:
    """Raise PluginError where the weights are missing or others, before anything is asked."""
    _WEIGHTS.file()


@cache
def network() -> DistillMos:
    """The network with its weights; raises PluginError where they are missing or others."""
    path = _WEIGHTS.file()
    made = DistillMos()
    try:
        stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)["model"]
        made.load_state_dict(stored)
    except (OSError, KeyError, RuntimeError, TypeError) as error:
        raise PluginError(f"{path} holds no network of Distill-MOS: {error}", hint=_WEIGHTS.install) from error
    return made.eval().requires_grad_(False)
