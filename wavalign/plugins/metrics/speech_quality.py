"""Mean predicted opinion score of the answers that sound, by DNSMOS on one window each.

`p808` always; `overall` (the P.835 network, ten times the price) where asked for. Silent answers are left out and thus
missing from the count. Source: Reddy, Gopal and Cutler (2021, 2022). Only differences mean something here.
"""

from collections.abc import Sequence
from typing import final

from wavalign.plugins.api import Measurement, Metric
from wavalign.plugins.batch import RolloutGroup
from wavalign.plugins.metrics.intervals import first_rollouts, mean
from wavalign.plugins.speech.quality import assess
from wavalign.schema.base import Params


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

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        waveforms = [group.rollouts[0].waveform for group in first_rollouts(groups)]
        scores = [assess(each, overall=self.params.overall) for each in waveforms if each is not None]
        found = [score for score in scores if score is not None]
        measured = [mean("speech_quality", [score.p808 for score in found], "MOS")]
        if self.params.overall:
            values = [score.overall for score in found if score.overall is not None]
            measured.append(mean("speech_quality_overall", values, "MOS"))
        return measured
