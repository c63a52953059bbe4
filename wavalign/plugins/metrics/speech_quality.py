"""Mean predicted opinion score of the answers that sound, by DNSMOS on one window each.

`p808` always; `overall` (the P.835 network, ten times the price) where asked for. Silent answers are left out and thus
missing from the count. Source: Reddy, Gopal and Cutler (2021, 2022). Only differences mean something here.
"""

from collections.abc import Sequence
from typing import final

from wavalign.plugins.api import Measurement, Metric
from wavalign.plugins.batch import RolloutGroup
from wavalign.plugins.metrics.intervals import first_rollouts, mean
from wavalign.plugins.speech.quality import INSTRUMENT, assess
from wavalign.schema.base import Params

_P808 = "Opinion score 1 to 5 that a network (DNSMOS, P.808) predicts for the sound; only differences mean something."
_OVERALL = "Overall opinion score 1 to 5 that a network (DNSMOS, P.835) predicts for the sound."


@final
class SpeechQualityParams(Params):
    """Which networks are asked."""

    overall: bool = False
    """Also the P.835 network: some 0.3 s an answer."""


@final
class SpeechQuality(Metric):
    """Predicted opinion scores 1..5, with normal intervals."""

    Params = SpeechQualityParams
    needs = frozenset({"waveform"})
    params: SpeechQualityParams

    @classmethod
    def instrument(cls, params: SpeechQualityParams) -> str:
        return INSTRUMENT

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        return self.conclude(groups, self.observe(groups))

    def observe(self, groups: Sequence[RolloutGroup]) -> list[tuple[float, float | None] | None]:
        sounds = [None if rollout is None else rollout.waveform for rollout in first_rollouts(groups)]
        scores = [None if sound is None else assess(sound, overall=self.params.overall) for sound in sounds]
        return [None if score is None else (score.p808, score.overall) for score in scores]

    def conclude(
        self, groups: Sequence[RolloutGroup], observed: Sequence[Sequence[float | None] | None]
    ) -> list[Measurement]:
        measured = [mean("speech_quality", [None if x is None else x[0] for x in observed], "MOS", says=_P808)]
        if self.params.overall:
            overall = [None if score is None else score[1] for score in observed]
            measured.append(mean("speech_quality_overall", overall, "MOS", says=_OVERALL))
        return measured
