"""How unlike noise does each moment sound? One minus the spectral flatness of every frame.

    q = 1 - exp(mean log P) / mean P      of the power spectrum P from 100 to 4000 Hz, in windows of 40 ms

White noise gives about 0.44, a vowel or a tone nearly 1; unvoiced consonants are noise by nature and are marked down
where they stand. It knows nothing of words: a hum is perfect. A pause (35 dB under the loudest window) says nothing and
is worth 0. A frame of codes is worth the mean over its windows, the answer the mean over those that sound.
Source: spectral flatness (Gray and Markel, 1974).
"""

from typing import final

import numpy as np
from pydantic import Field

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored, Waveform
from wavalign.plugins.speech.answers import sound_of
from wavalign.plugins.speech.prosody import Array, frames
from wavalign.plugins.token_rewards import num_frames, over_frames
from wavalign.schema.base import Params

_WINDOW_SECONDS, _HOP_SECONDS = 0.04, 0.02
_LOWEST, _HIGHEST = 100.0, 4000.0
_PAUSE_DB = 35.0
_FLOOR = 1e-12


@final
class FrameQualityParams(Params):
    """How codes make up frames."""

    codes_per_frame: int = Field(default=1, ge=1, le=256)
    """Ids of a frame that stand one behind another in a stream; 1 takes each for a frame of its own."""


@final
class FrameQuality(Reward):
    """From 0 to 1, and a share of its frame's worth for every token of sound."""

    Params = FrameQualityParams
    needs = frozenset({"waveform"})
    range = (0.0, 1.0)
    params: FrameQualityParams

    @classmethod
    def instrument(cls, params: FrameQualityParams) -> str:
        return "the spectral flatness of the sound"

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        sound = sound_of(rollout)
        if isinstance(sound, Scored):
            return sound
        quality, sounding = flatness_of(sound)
        if not sounding.any():
            return Scored.absent("the answer is silent")
        frames_of_sound = num_frames(rollout, codes_per_frame=self.params.codes_per_frame)
        values = means_of_frames(np.where(sounding, quality, 0.0), frames_of_sound)
        tokens = over_frames(rollout, values, codes_per_frame=self.params.codes_per_frame)
        return Scored(float(quality[sounding].mean()), tokens=tokens)


def flatness_of(sound: Waveform) -> tuple[Array, Array]:
    """One minus the flatness of every window of `sound`, [F], and bool [F]: which of them sound at all."""
    length, hop = (round(seconds * sound.sample_rate) for seconds in (_WINDOW_SECONDS, _HOP_SECONDS))
    parts = frames(sound.samples, length=length, hop=hop) * np.hanning(length).astype(np.float32)
    frequency = np.fft.rfftfreq(length, 1 / sound.sample_rate)
    band = (frequency >= _LOWEST) & (frequency <= _HIGHEST)
    power = np.abs(np.fft.rfft(parts, axis=1))[:, band] ** 2 + _FLOOR
    mean = power.mean(axis=1)
    level = 10 * np.log10(mean)
    sounding = (level > level.max() - _PAUSE_DB) & (mean > 2 * _FLOOR)
    return (1 - np.exp(np.log(power).mean(axis=1)) / mean).astype(np.float32), sounding


def means_of_frames(windows: Array, count: int) -> list[float]:
    """Means of `windows` [F] over `count` frames that divide the sound evenly; 0 of a frame without a window."""
    if not count:
        return []
    frame = ((np.arange(len(windows)) + 0.5) * count / len(windows)).astype(int).clip(max=count - 1)
    sums, found = np.bincount(frame, weights=windows, minlength=count), np.bincount(frame, minlength=count)
    return [float(each) for each in sums / found.clip(min=1)]
