"""Sound as a judge is sent it: 16-bit WAV at its true rate."""

import base64
import io
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import soundfile

from wavalign.plugins.batch import Waveform

SILENT = 1e-4
"""Level up to which sound is none."""


@final
@dataclass(frozen=True, slots=True)
class SentSound:
    """A WAV file in memory."""

    content: bytes
    seconds: float
    """Of what is sent."""
    of_seconds: float
    """Of the whole sound."""

    @property
    def part(self) -> dict[str, Any]:
        """As a part of a message."""
        data = base64.b64encode(self.content).decode("ascii")
        return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def wav(sound: Waveform, most_seconds: float) -> SentSound:
    """The first `most_seconds` of a sound, with its own sample rate in the header."""
    samples = sound.samples[: max(1, int(most_seconds * sound.sample_rate))]
    file = io.BytesIO()
    soundfile.write(file, np.clip(samples, -1.0, 1.0), sound.sample_rate, subtype="PCM_16", format="WAV")
    return SentSound(file.getvalue(), len(samples) / sound.sample_rate, sound.seconds)


def is_silent(sound: Waveform) -> bool:
    """Whether no sample is heard, or one is no number."""
    return not float(np.abs(sound.samples).max(initial=0.0)) > SILENT
