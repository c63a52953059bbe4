"""Which of an embedded world's styles an utterance sounds like: nearest centroid of measured prosody.

The centroids are measured on that world's own clean speech the first time they are needed (about a second), not stored:
stored ones would go on judging after a style was changed. Level is left out: codecs move it more than styles do.
"""

from dataclasses import dataclass
from functools import cache
from typing import final

import numpy as np
import numpy.typing as npt

from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.prosody import measure
from wavalign.plugins.speech.world.facts import answer_sentences
from wavalign.plugins.speech.world.speakers import SpeakersName, speakers
from wavalign.plugins.speech.world.speaking import say
from wavalign.plugins.speech.world.styles import STYLES

INSTRUMENT = "the nearest style by pitch, its spread and speaking rate"
STYLE_NAMES = tuple(style.name for style in STYLES)
_NUM_FEATURES = 3
"""Pitch, its spread and the speaking rate."""
_EVERY = 4
"""Of the answers, every fourth is spoken once in each style."""


@final
@dataclass(frozen=True, slots=True)
class StyleEstimate:
    """Nearest style of an utterance, and the likelihood of each."""

    nearest: str
    likelihoods: dict[str, float]
    """Share of each style, adding up to 1: softmax of minus half the squared distance."""


def classify_style(waveform: Waveform, text: str, *, voices: SpeakersName = "espeak") -> StyleEstimate | None:
    """Style of the world of `voices` of `text` as said in `waveform`; None where no pitch can be measured."""
    prosody = measure(waveform, text)
    if prosody is None:
        return None
    centroids, spread = _centroids(voices)
    distance = (((prosody.vector()[:_NUM_FEATURES] - centroids) / spread) ** 2).sum(axis=1)
    weight = np.exp(-0.5 * (distance - distance.min()))
    shares = (weight / weight.sum()).tolist()
    return StyleEstimate(STYLE_NAMES[int(distance.argmin())], dict(zip(STYLE_NAMES, shares, strict=True)))


@cache
def _centroids(voices: SpeakersName) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean features per style [styles, 3] and their common standard deviation [3]."""
    cast = speakers(voices)
    means, variances = [], []
    for style in range(len(cast.styles)):
        rows = []
        for index, sentence in enumerate(answer_sentences()[::_EVERY]):
            prosody = measure(say(sentence, cast.answer(style, index % cast.num_jitters)), sentence)
            if prosody is not None:
                rows.append(prosody.vector()[:_NUM_FEATURES])
        means.append(np.mean(rows, axis=0))
        variances.append(np.var(rows, axis=0))
    return np.stack(means), np.sqrt(np.mean(variances, axis=0))
