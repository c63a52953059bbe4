"""How good does it sound? The P.808 network of DNSMOS on one window, on its own 1..5 scale.

Source: Reddy, Gopal and Cutler, "DNSMOS: a non-intrusive perceptual objective speech quality metric" (2021). On
synthetic voices only differences mean something: give it a small weight.
"""

from typing import final

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.plugins.speech.answers import sound_of
from wavalign.plugins.speech.quality import INSTRUMENT, assess
from wavalign.schema.base import Params

_LOWEST, _HIGHEST = 1.0, 5.0


@final
class SpeechQuality(Reward):
    """Predicted opinion score 1..5; one window of 9 s whatever the length, so the time is bounded."""

    Params = Params
    needs = frozenset({"waveform"})
    range = (_LOWEST, _HIGHEST)

    @classmethod
    def instrument(cls, params: object) -> str:
        return INSTRUMENT

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        sound = sound_of(rollout)
        if isinstance(sound, Scored):
            return sound
        quality = assess(sound)
        if quality is None:
            return Scored.absent("the answer is silent")
        return Scored(min(max(quality.p808, _LOWEST), _HIGHEST))
