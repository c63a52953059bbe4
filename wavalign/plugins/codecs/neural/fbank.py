"""Log-mel filter banks as Kaldi computes them, each band brought to mean 0 and variance 1 over the sound."""

import numpy as np
import torch
from torch import Tensor
from transformers.audio_utils import spectrogram, window_function

from wavalign.plugins.speech import kaldi_fbank as kaldi


def normalised_fbank(samples: Tensor, sample_rate: int) -> Tensor:
    """Features [T, 80] of `samples` [N] at 16 kHz: a window of 25 ms every 10 ms, none that reaches over the end."""
    power = spectrogram(
        samples.cpu().double().numpy() * kaldi.FULL_SCALE,
        window_function(kaldi.FRAME_LENGTH, "povey", periodic=False),
        frame_length=kaldi.FRAME_LENGTH,
        hop_length=kaldi.FRAME_SHIFT,
        fft_length=kaldi.FFT_LENGTH,
        power=2.0,
        center=False,
        preemphasis=kaldi.PREEMPHASIS,
        mel_filters=kaldi.mel_filters(sample_rate),
        log_mel="log",
        mel_floor=kaldi.LOG_FLOOR,
        remove_dc_offset=True,
    ).T
    scale = np.sqrt(power.var(axis=0, ddof=1) + 1e-7)
    return torch.from_numpy(((power - power.mean(axis=0)) / scale).astype(np.float32))
