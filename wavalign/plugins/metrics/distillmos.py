"""Mean opinion score that Distill-MOS predicts for the answers that sound.

Silent answers are left out and thus missing from the count. Noise may raise the score of a synthetic voice
(docs/rewards): read it beside `speech_quality`. Source: `plugins.speech.distillmos`.
"""

from collections.abc import Sequence
from typing import final

from wavalign.plugins.api import Measurement, Metric
from wavalign.plugins.batch import Dialogue, RolloutGroup
from wavalign.plugins.metrics.intervals import first_rollouts, mean
from wavalign.plugins.speech.distillmos import INSTRUMENT, check_installed, predicted_quality
from wavalign.schema.base import Params

_SAYS = "Opinion score 1 to 5 that a network (Distill-MOS) predicts for the sound; only differences mean something."


@final
class DistillMos(Metric):
    """Predicted opinion score 1..5, with a normal interval."""

    Params = Params
    needs = frozenset({"waveform"})

    @classmethod
    def dialogue_needs(cls, params: object, dialogue: Dialogue) -> str | None:
        check_installed()
        return None

    @classmethod
    def instrument(cls, params: object) -> str:
        return INSTRUMENT

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        return self.conclude(groups, self.observe(groups))

    def observe(self, groups: Sequence[RolloutGroup]) -> list[float | None]:
        sounds = [None if rollout is None else rollout.waveform for rollout in first_rollouts(groups)]
        return [None if sound is None else predicted_quality(sound) for sound in sounds]

    def conclude(self, groups: Sequence[RolloutGroup], observed: Sequence[float | None]) -> list[Measurement]:
        return [mean("distillmos", observed, "MOS", says=_SAYS)]
