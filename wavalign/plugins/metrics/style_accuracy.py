"""Share of answers whose prosody is nearest to the asked style, and how many could be measured at all.

Nearest centroid of pitch, pitch spread and speaking rate over the embedded world's styles. `style_accuracy` counts
among answers with a measurable pitch, `style_measurable` says how many of all asked ones those are.
"""

from collections.abc import Sequence
from typing import final

from pydantic import Field

from wavalign.plugins.api import Measurement, Metric
from wavalign.plugins.batch import RolloutGroup
from wavalign.plugins.metrics.intervals import first_rollouts, proportion, proportions
from wavalign.plugins.speech.manner import STYLE_NAMES, judge
from wavalign.schema.base import Params


@final
class StyleAccuracyParams(Params):
    """How it is broken down."""

    by: tuple[str, ...] = Field(default=(), max_length=100)
    """Metadata keys to report `style_accuracy` by, e.g. `[cue, style]`."""


@final
class StyleAccuracy(Metric):
    """Answers in the asked style, with Wilson intervals."""

    Params = StyleAccuracyParams
    needs = frozenset({"text", "waveform"})
    params: StyleAccuracyParams

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        hits, measurable = [], []
        for group in first_rollouts(groups):
            asked = group.dialogue.metadata.get("style")
            if asked not in STYLE_NAMES:
                continue
            rollout = group.rollouts[0]
            manner = None if rollout.waveform is None else judge(rollout.waveform, rollout.answer.text)
            measurable.append(manner is not None)
            if manner is not None:
                hits.append((group.dialogue, manner.nearest == asked))
        measured = proportions("style_accuracy", hits, self.params.by)
        return [*measured, proportion("style_measurable", measurable)]
