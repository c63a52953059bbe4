"""Share of answers that are whole: ended by themselves, with text, with codes, and with every code in the sound.

Where the dialogue has a target without text, an answer needs none; where it has one without sound, an answer needs no
codes, but what it says must sound. Without a target both are needed.

A codec leaves out codes it cannot place, so sound shorter than its codes promise shows a malformed sequence.
"""

from collections.abc import Sequence
from typing import final

from pydantic import Field

from wavalign.plugins.api import Measurement, Metric
from wavalign.plugins.batch import Rollout, RolloutGroup
from wavalign.plugins.metrics.intervals import proportion
from wavalign.schema.base import Params


@final
class WellFormedParams(Params):
    """What the codec makes of a code."""

    codes_per_second: float | None = Field(default=None, gt=0.0, le=1e6)
    """Codes in a second of sound (frame rate times codes a frame); null asks only for some sound."""


@final
class WellFormed(Metric):
    """Whole answers, with a Wilson interval."""

    Params = WellFormedParams
    needs = frozenset({"text", "waveform"})
    params: WellFormedParams

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        whole = [self._whole(group) if group.rollouts else None for group in groups]
        return [
            proportion("well_formed", whole, says="The answer ended by itself, with the text and the sound it owes.")
        ]

    def _whole(self, group: RolloutGroup) -> bool:
        rollout, target = group.rollouts[0], group.dialogue.target
        answer = rollout.answer
        # A target that holds neither says nothing about what is wanted.
        silent = target is not None and target.audio is None and bool(target.text.strip())
        wordless = target is not None and target.audio is not None and not target.text.strip()
        has_text, has_codes = bool(answer.text.strip()), bool(answer.codes)
        if not answer.finished or not (has_text or wordless) or not (has_codes or silent):
            return False
        return self._sounds(rollout) if has_codes else True

    def _sounds(self, rollout: Rollout) -> bool:
        answer, waveform = rollout.answer, rollout.waveform
        if waveform is None:
            return False
        promised = 0.0 if self.params.codes_per_second is None else len(answer.codes) / self.params.codes_per_second
        # Half a code may be missing: a decoder that works in frames of its own rounds down.
        slack = 0.0 if self.params.codes_per_second is None else 0.5 / self.params.codes_per_second
        return waveform.seconds > max(0.0, promised - slack)
