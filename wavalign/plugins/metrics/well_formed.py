"""Share of answers that are whole: ended by themselves, with text, with codes, and with every code in the sound.

Where a dialogue's target has no text (it is to be read aloud) or no sound (it is to be written), none is asked of the
answer. A codec leaves out codes it cannot place, so sound shorter than its codes promise shows a malformed sequence.
"""

from collections.abc import Sequence
from typing import final

from pydantic import Field

from wavalign.plugins.api import Measurement, Metric
from wavalign.plugins.batch import Message, Rollout, RolloutGroup
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
        return [
            proportion(
                "well_formed",
                [self._whole(group.rollouts[0], group.dialogue.target) for group in first_rollouts(groups)],
            )
        ]

    def _whole(self, rollout: Rollout, target: Message | None) -> bool:
        answer, waveform = rollout.answer, rollout.waveform
        written, spoken = bool(answer.text.strip()), bool(answer.codes)
        wants_text, wants_sound = (
            target is None or bool(target.text.strip()),
            target is None or target.audio is not None,
        )
        if not answer.finished or (wants_text and not written) or (wants_sound and not spoken):
            return False
        if not spoken:
            return written
        if waveform is None:
            return False
        promised = 0.0 if self.params.codes_per_second is None else len(answer.codes) / self.params.codes_per_second
        # Half a code may be missing: a decoder that works in frames of its own rounds down.
        slack = 0.0 if self.params.codes_per_second is None else 0.5 / self.params.codes_per_second
        return waveform.seconds > max(0.0, promised - slack)
