"""Share of answers whose prosody is nearest to the asked style, and how many could be measured at all.

Nearest centroid of pitch, pitch spread and speaking rate over the styles of an embedded world. `style_accuracy` counts
among answers with a measurable pitch, `style_measurable` says how many of all asked ones those are.
"""

from collections.abc import Sequence
from typing import final

from pydantic import Field

from wavalign.plugins.api import Measurement, Metric
from wavalign.plugins.batch import Dialogue, Rollout, RolloutGroup
from wavalign.plugins.metrics.intervals import broken_down, first_rollouts, proportion
from wavalign.plugins.speech.needs import needs_style
from wavalign.plugins.speech.style_classifier import INSTRUMENT, STYLE_NAMES, classify_style
from wavalign.plugins.speech.world.speakers import SpeakersName
from wavalign.schema.base import Params

_RIGHT = "The sound's pitch and pace are nearest to those of the style that was asked for."
_MEASURABLE = "Pitch and pace could be measured at all, so that the style could be told."


@final
class StyleAccuracyParams(Params):
    """How it is broken down."""

    voices: SpeakersName = "espeak"
    """Whose styles: `espeak` of the spoken world, `natural` of the natural one."""
    by: tuple[str, ...] = Field(default=(), max_length=100)
    """Metadata keys to report `style_accuracy` by, e.g. `[cue, style]`."""


@final
class StyleAccuracy(Metric):
    """Answers in the asked style, with Wilson intervals."""

    Params = StyleAccuracyParams
    needs = frozenset({"text", "waveform"})
    params: StyleAccuracyParams

    @classmethod
    def dialogue_needs(cls, params: StyleAccuracyParams, dialogue: Dialogue) -> str | None:
        return needs_style(dialogue)

    @classmethod
    def instrument(cls, params: StyleAccuracyParams) -> str:
        return INSTRUMENT

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        return self.conclude(groups, self.observe(groups))

    def observe(self, groups: Sequence[RolloutGroup]) -> list[str | None]:
        return [
            _nearest(rollout, self.params.voices) if rollout is not None and _asked(group) is not None else None
            for rollout, group in zip(first_rollouts(groups), groups, strict=True)
        ]

    def conclude(self, groups: Sequence[RolloutGroup], observed: Sequence[str | None]) -> list[Measurement]:
        styles, nearest = [_asked(group) for group in groups], observed
        answered = [style is not None and bool(group.rollouts) for style, group in zip(styles, groups, strict=True)]
        hits = [None if found is None else found == style for found, style in zip(nearest, styles, strict=True)]
        measurable = [found is not None if there else None for found, there in zip(nearest, answered, strict=True)]
        details = {"style_asked": tuple(styles), "style_measured": tuple(nearest)}
        whole = proportion("style_accuracy", hits, details=details, says=_RIGHT)
        parts = broken_down(whole, groups, self.params.by)
        return [whole, *parts, proportion("style_measurable", measurable, says=_MEASURABLE)]


def _asked(group: RolloutGroup) -> str | None:
    """The style the dialogue asks for; None for none that is known here."""
    style = group.dialogue.metadata.get("style")
    return style if isinstance(style, str) and style in STYLE_NAMES else None


def _nearest(rollout: Rollout, voices: SpeakersName) -> str | None:
    """The style an answer sounds like; None without sound or measurable pitch."""
    if rollout.waveform is None:
        return None
    estimate = classify_style(rollout.waveform, rollout.answer.text, voices=voices)
    return None if estimate is None else estimate.nearest
