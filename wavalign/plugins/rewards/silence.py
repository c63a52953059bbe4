"""Does anybody speak in the sound? The share of it that is speech.

1 for speech without pauses, about 0.9 with those of a sentence, 0 for silence, for what is too quiet to hear and, by
how little their level moves, for noise and tones. How it is told stands in `plugins.speech.speech_activity`. Made to be
a guard: `below: 0.3` lets pauses through that are twice as long as what is said. Source: own; Silero VAD.
"""

from typing import final

from pydantic import Field

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.plugins.speech.answers import sound_of
from wavalign.plugins.speech.speech_activity import FLOOR, INSTRUMENTS, Detector, check_detector, speech_share
from wavalign.schema.base import Params


@final
class SilenceParams(Params):
    """What speech is told by."""

    by: Detector = "energy"
    """`energy`: the level and how it moves. `silero`: a network (extra `guards`), some 30 ms a second of sound."""
    floor: float = Field(default=FLOOR, ge=-120, le=0)
    """Of `energy`: dB re full scale under which nothing is heard."""


@final
class Silence(Reward):
    """From 0, nobody speaks, to 1."""

    Params = SilenceParams
    needs = frozenset({"waveform"})
    range = (0.0, 1.0)
    params: SilenceParams

    @classmethod
    def instrument(cls, params: SilenceParams) -> str:
        return INSTRUMENTS[params.by]

    def __init__(self, params: SilenceParams) -> None:
        super().__init__(params)
        check_detector(params.by)

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        sound = sound_of(rollout)
        if isinstance(sound, Scored):
            return sound
        share = speech_share(sound, self.params.by, self.params.floor)
        return Scored(share, f"{share:.0%} of {sound.seconds:.1f} s is speech", {"seconds": sound.seconds})
