"""Facets of prosody, each in the unit that people use for it, measured one by one.

    pitch        median of the voiced frames, Hz                         distances in semitones, 12 log2(a / b)
    pitch_range  from the 10th to the 90th percentile of them, semitones
    level        mean over the sounding frames, dB re full scale
    rate         letters of the text a second, from the first to the last sounding frame
    pauses       share of that time in pauses of 150 ms or more

A frame sounds where it is at most 35 dB under the loudest. Voices are followed from 55 to 400 Hz (`speech.prosody`).
"""

import math
from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.prosody import SOUNDING_DB, track

INSTRUMENT = "the pitch, level and pauses that speech.prosody measures"
FacetName = Literal["pitch", "pitch_range", "level", "rate", "pauses"]
FACETS: tuple[FacetName, ...] = get_args(FacetName)
UNITS: Mapping[FacetName, str] = {"pitch": "Hz", "pitch_range": "st", "level": "dB", "rate": "letters/s", "pauses": ""}
DISTANCE_UNITS: Mapping[FacetName, str] = {**UNITS, "pitch": "st"}
Facets = Mapping[FacetName, float]
"""What could be measured, by name."""
MAX_SECONDS = 30.0
"""Only so much of a sound is looked at: bounds the time of a call."""
_FRAMES_PER_SECOND = 100
_FEWEST_VOICED = 5
_PAUSE_FRAMES = 15
_SILENCE_DB = -80.0


def facets(waveform: Waveform, text: str) -> Facets:
    """Facets of `text` as said in `waveform`; one that cannot be measured is left out, of silence all."""
    samples = waveform.samples[: int(MAX_SECONDS * waveform.sample_rate)]
    found = track(Waveform(samples, waveform.sample_rate), hop=waveform.sample_rate // _FRAMES_PER_SECOND)
    if len(found.level) == 0 or float(found.level.max()) < _SILENCE_DB:
        return {}
    sounding = found.level > found.level.max() - SOUNDING_DB
    places = np.flatnonzero(sounding)
    spoken = sounding[places[0] : places[-1] + 1]
    measured: dict[FacetName, float] = {
        "level": float(found.level[sounding].mean()),
        "pauses": _paused(~spoken) / len(spoken),
    }
    if letters := sum(character.isalpha() for character in text):
        measured["rate"] = letters * _FRAMES_PER_SECOND / len(spoken)
    voiced = found.pitch[found.pitch > 0.0]
    if len(voiced) >= _FEWEST_VOICED:
        low, middle, high = (float(each) for each in np.percentile(voiced, (10.0, 50.0, 90.0)))
        measured |= {"pitch": middle, "pitch_range": 12.0 * math.log2(high / low)}
    return measured


def distance(facet: FacetName, value: float, *, low: float | None, high: float | None) -> float:
    """How far `value` lies outside the band, 0 within; in semitones for pitch, else in the facet's unit."""
    scale = _semitones if facet == "pitch" else float
    below = 0.0 if low is None else scale(low) - scale(value)
    above = 0.0 if high is None else scale(value) - scale(high)
    return max(below, above, 0.0)


def _semitones(hertz: float) -> float:
    return 12.0 * math.log2(hertz)


def _paused(quiet: npt.NDArray[np.bool_]) -> int:
    """Frames of `quiet` [F] in runs that are long enough for a pause."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(np.int8)))
    lengths = edges[1::2] - edges[::2]
    return int(lengths[lengths >= _PAUSE_FRAMES].sum())
