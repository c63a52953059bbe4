"""A sentence to a sound, by the voices of the natural world."""

from dataclasses import dataclass
from typing import final

import numpy as np
import soxr

from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.neural_voice import SAMPLE_RATE, Manner, neural_voice
from wavalign.plugins.speech.piper_voice import piper_voice
from wavalign.plugins.speech.world.natural_styles import NaturalDelivery


@final
@dataclass(frozen=True, slots=True)
class _Body:
    """A speaker made of hibari's voice."""

    pitch: float = 0.0
    """Semitones."""
    tract: float = 1.0
    """Times hibari's formants; below 1 is a longer vocal tract."""


_BODIES = {
    "hibari": _Body(),
    "hibari-deep": _Body(-9.0, 0.84),
    "hibari-low": _Body(-6.0, 0.9),
    "hibari-high": _Body(2.0, 1.12),
}


def speak_naturally(text: str, delivery: NaturalDelivery) -> Waveform:
    """The sound of `text`, which is read as a sentence; 24 kHz, the same call gives the same samples."""
    asked = text.startswith("what ")
    sentence = f"{text[:1].upper()}{text[1:]}{'?' if asked else '.'}"
    if delivery.voice == "joe":
        spoken = piper_voice().speak(sentence, speed=delivery.speed)
        return _shifted(spoken, 2.0 ** (delivery.pitch / 36.0))
    body = _BODIES[delivery.voice]
    # Played at another rate everything is shifted: the speed and the pitch that this adds are taken off beforehand.
    manner = Manner(
        speed=delivery.speed / body.tract,
        pitch=delivery.pitch + body.pitch - 12.0 * float(np.log2(body.tract)),
        range=delivery.range,
        level=delivery.level,
        slur=delivery.slur,
    )
    return _shifted(neural_voice().speak(sentence, manner), body.tract)


def _shifted(waveform: Waveform, factor: float) -> Waveform:
    """`waveform` played `factor` times as fast, at 24 kHz."""
    rate = waveform.sample_rate * factor
    samples = waveform.samples if rate == SAMPLE_RATE else soxr.resample(waveform.samples, rate, SAMPLE_RATE)
    return Waveform(np.asarray(np.clip(samples, -1.0, 1.0), dtype=np.float32), SAMPLE_RATE)
