"""Text to a waveform: deterministic, in process, no files."""

import numpy as np
import soxr

from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech import espeak
from wavalign.plugins.speech.espeak import Delivery

SAMPLE_RATE = 16_000
"""Hertz of everything the embedded world says and hears."""


def synthesize(text: str, delivery: Delivery, *, sample_rate: int = SAMPLE_RATE) -> Waveform:
    """Speak `text`; mono at `sample_rate` Hz. Raises DataError for an unknown voice."""
    samples, rate = espeak.speak(text, delivery)
    resampled = soxr.resample(samples, rate, sample_rate) if rate != sample_rate else samples
    return Waveform(np.asarray(np.clip(resampled, -1.0, 1.0), dtype=np.float32), sample_rate)
