"""Share of answers that are whole: ended by themselves, with text, with codes, and with every code in the sound.

A codec leaves out codes it cannot place, so sound shorter than its codes promise shows a malformed sequence.
"""

from collections.abc import Sequence
from typing import final

from pydantic import Field

from wavalign.plugins.api import Measurement, Metric
from wavalign.plugins.batch import Rollout, RolloutGroup
from wavalign.plugins.metrics.intervals import first_rollouts, proportion
from wavalign.schema.base import Params


@final
class WellFormedParams(Params):
    """What the codec makes of a code."""

    codes_per_second: float | None = Field(default=None, gt=0.0)
    """Codes in a second of sound (frame rate times codes a frame); null asks only for some sound."""


@final
class WellFormed(Metric):
    """Whole answers, with a Wilson interval."""

    Params = WellFormedParams
    needs = frozenset({"text", "waveform"})
    params: WellFormedParams

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        return [proportion("well_formed", [self._whole(group.rollouts[0]) for group in first_rollouts(groups)])]

    def _whole(self, rollout: Rollout) -> bool:
        answer, waveform = rollout.answer, rollout.waveform
        if not (answer.finished and answer.text.strip() and answer.codes) or waveform is None:
            return False
        promised = 0.0 if self.params.codes_per_second is None else len(answer.codes) / self.params.codes_per_second
        # Half a code may be missing: a decoder that works in frames of its own rounds down.
        slack = 0.0 if self.params.codes_per_second is None else 0.5 / self.params.codes_per_second
        return waveform.seconds > max(0.0, promised - slack)
