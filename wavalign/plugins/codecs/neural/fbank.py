"""Log-mel filter banks as Kaldi computes them, each band brought to mean 0 and variance 1 over the sound."""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

_NUM_MELS, _WINDOW, _HOP, _FFT = 80, 400, 160, 512
_LOWEST, _FLOOR = 20.0, 1.192092955078125e-07


def normalised_fbank(samples: Tensor, sample_rate: int) -> Tensor:
    """Features [T, 80] of `samples` [N] at 16 kHz: a window of 25 ms every 10 ms, none that reaches over the end."""
    power = spectrogram(
        samples.cpu().double().numpy() * 2.0**15,  # Kaldi counts in 16-bit steps
        window_function(_WINDOW, "povey", periodic=False),
        frame_length=_WINDOW,
        hop_length=_HOP,
        fft_length=_FFT,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=_filters(sample_rate),
        log_mel="log",
        mel_floor=_FLOOR,
        remove_dc_offset=True,
    ).T
    scale = np.sqrt(power.var(axis=0, ddof=1) + 1e-7)
    return torch.from_numpy(((power - power.mean(axis=0)) / scale).astype(np.float32))


@cache
def _filters(sample_rate: int) -> Any:
    return mel_filter_bank(
        num_frequency_bins=_FFT // 2 + 1,
        num_mel_filters=_NUM_MELS,
        min_frequency=_LOWEST,
        max_frequency=sample_rate / 2,
        sampling_rate=sample_rate,
        norm=None,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
