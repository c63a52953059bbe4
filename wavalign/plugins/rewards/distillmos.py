"""How good does it sound? Distill-MOS, an opinion score from 1 to 5 that a network predicts.

Taught by a large model of speech, it hears unnatural speech where DNSMOS hears little but noise. Noise may raise its
score of a synthetic voice: beside it belongs a reward that noise lowers (`speech_quality`). At most 30 s are heard.
Source: `plugins.speech.distillmos`. What fools it: docs/rewards.
"""

from typing import final

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.plugins.speech.answers import sound_of
from wavalign.plugins.speech.distillmos import INSTRUMENT, check_installed, predicted_quality
from wavalign.schema.base import Params


@final
class DistillMos(Reward):
    """Predicted opinion score 1..5; some 0.3 s an answer on one core, more for answers above 7.7 s."""

    Params = Params
    needs = frozenset({"waveform"})
    range = (1.0, 5.0)

    @classmethod
    def dialogue_needs(cls, params: object, dialogue: Dialogue) -> str | None:
        check_installed()
        return None

    @classmethod
    def instrument(cls, params: object) -> str:
        return INSTRUMENT

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        sound = sound_of(rollout)
        if isinstance(sound, Scored):
            return sound
        quality = predicted_quality(sound)
        return Scored.absent("the answer is silent") if quality is None else Scored(quality)
