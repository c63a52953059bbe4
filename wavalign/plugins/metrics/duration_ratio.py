"""How long answers last beside the gold sound: what no transcript shows, for fast speech is understood as well.

`duration_ratio` is the mean of seconds over the gold sound's seconds; `duration_far` the share of answers that are off
by more than a tolerance in either direction, which a mean hides. Answers without sound are left out and thus missing
from the count.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import final

from pydantic import Field

from wavalign.plugins import audio
from wavalign.plugins.api import Measurement, Metric
from wavalign.plugins.batch import Dialogue, RolloutGroup
from wavalign.plugins.metrics.intervals import first_rollouts, mean, proportion
from wavalign.plugins.speech.needs import needs_target_sound
from wavalign.schema.base import Params

_RATIO = "Seconds of the answer's sound over those of the gold sound; 1 is as long."


@final
class DurationRatioParams(Params):
    """What counts as far off."""

    tolerance: float = Field(default=1.25, gt=1.0, le=100.0)
    """Answers longer than the gold sound by more than this factor, or shorter by as much, are far off."""


@final
class DurationRatio(Metric):
    """Seconds of answers beside the gold sound's."""

    Params = DurationRatioParams
    needs = frozenset({"waveform"})
    params: DurationRatioParams

    @classmethod
    def dialogue_needs(cls, params: DurationRatioParams, dialogue: Dialogue) -> str | None:
        return needs_target_sound(dialogue)

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        return self.conclude(groups, self.observe(groups))

    def observe(self, groups: Sequence[RolloutGroup]) -> list[float | None]:
        ratios: list[float | None] = []
        for group, rollout in zip(groups, first_rollouts(groups), strict=True):
            sound, target = None if rollout is None else rollout.waveform, group.dialogue.target
            if sound is None or not len(sound.samples) or target is None or target.audio is None:
                ratios.append(None)
            else:
                ratios.append(sound.seconds / audio.read(target.audio, sample_rate=None).seconds)
        return ratios

    def conclude(self, groups: Sequence[RolloutGroup], observed: Sequence[float | None]) -> list[Measurement]:
        most = self.params.tolerance
        far = [None if ratio is None else not 1 / most <= ratio <= most for ratio in observed]
        says = f"The answer's sound is longer or shorter than the gold sound by more than a factor of {most:g}."
        return [
            replace(mean("duration_ratio", observed, "x", says=_RATIO), quality=False),
            proportion("duration_far", far, better="less", says=says),
        ]
