"""What Kaldi's `fbank` fixes: frames of 25 ms every 10 ms, samples as 16-bit integers, 80 triangles from 20 Hz up."""

from functools import cache
from typing import Any

import numpy as np
from transformers.audio_utils import mel_filter_bank

FRAME_LENGTH, FRAME_SHIFT, FFT_LENGTH, NUM_MELS = 400, 160, 512, 80
PREEMPHASIS, LOWEST_HERTZ, FULL_SCALE = 0.97, 20.0, 32768.0
LOG_FLOOR = float(np.finfo(np.float32).eps)


@cache
def mel_filters(sample_rate: int) -> Any:
    """Triangles [257, 80] float64, even on Kaldi's mel scale."""
    return mel_filter_bank(
        num_frequency_bins=FFT_LENGTH // 2 + 1,
        num_mel_filters=NUM_MELS,
        min_frequency=LOWEST_HERTZ,
        max_frequency=sample_rate / 2,
        sampling_rate=sample_rate,
        norm=None,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
