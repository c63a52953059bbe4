"""Sound inside the page: 16-bit mono FLAC as a data URL, within a size that a browser opens at once.

FLAC loses nothing, which matters where one listens for faults, is half as large as WAV, and every browser plays it.
"""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import final

import soundfile
from markupsafe import Markup

from wavalign.engine.report.plots import waveform
from wavalign.errors import DataError
from wavalign.plugins import audio
from wavalign.plugins.batch import AudioClip, Waveform

HIGHEST_RATE = 24_000
"""Hertz; faster sound is brought down to this, which is enough for speech."""
BUDGET = 12_000_000
"""Characters of base64 in one page."""


@final
@dataclass(frozen=True, slots=True)
class Player:
    """What the page needs to play one clip."""

    url: Markup
    seconds: float
    share: float
    """Length as part of the longest clip beside it."""
    wave: Markup


@final
class SoundBox:
    """Turns files into players until the page's budget is used; counts what stayed outside."""

    def __init__(self, budget: int = BUDGET) -> None:
        self.left = budget
        self.embedded = 0
        self.left_out = 0
        self.unreadable: list[str] = []

    def read(self, path: Path | None) -> Waveform | None:
        """The sound of `path`; None when there is none, None and noted when it cannot be read."""
        if path is None:
            return None
        clip = AudioClip(str(path))
        try:
            sound = audio.read(clip, sample_rate=None)
            return sound if sound.sample_rate <= HIGHEST_RATE else audio.read(clip, sample_rate=HIGHEST_RATE)
        except DataError as error:
            self.unreadable.append(error.message)
            return None

    def player(self, clip: Waveform | None, longest: float) -> Player | None:
        """`clip` as a player beside clips of up to `longest` seconds; None when there is none or no room is left."""
        if clip is None:
            return None
        buffer = io.BytesIO()
        soundfile.write(buffer, clip.samples, clip.sample_rate, format="FLAC", subtype="PCM_16")
        encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
        if len(encoded) > self.left:
            self.left_out += 1
            return None
        self.left -= len(encoded)
        self.embedded += 1
        share = clip.seconds / longest
        return Player(Markup(f"data:audio/flac;base64,{encoded}"), clip.seconds, share, waveform(clip.samples, share))
