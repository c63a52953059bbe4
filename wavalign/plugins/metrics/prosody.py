"""Means of the facets of prosody over the answers: pitch, its range, level, speaking rate, pauses.

With `like` also how far each lies from that of a sound of the dialogue: the mean absolute difference, of pitch in
semitones. An answer whose facet cannot be measured (silence, no voice, no text) is left out of it and thus missing from
the count. Source: `plugins.speech.facets`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, final

from pydantic import Field

from wavalign.plugins.api import Measurement, Metric
from wavalign.plugins.batch import Dialogue, RolloutGroup
from wavalign.plugins.metrics.intervals import first_rollouts, mean
from wavalign.plugins.speech.compared import WHOM, Whose, facets_like, needs_sound_of
from wavalign.plugins.speech.facets import (
    DISTANCE_UNITS,
    FACETS,
    INSTRUMENT,
    UNITS,
    FacetName,
    Facets,
    distance,
    facets,
)
from wavalign.schema.base import Params

_SAYS: Final[Mapping[FacetName, str]] = {
    "pitch": "Median pitch of the voice.",
    "pitch_range": "From the 10th to the 90th percentile of the pitch: lively speech moves more.",
    "level": "Mean level of what sounds, below full scale.",
    "rate": "Letters of the written answer a second of speech.",
    "pauses": "Share of the time between first and last sound in pauses of 150 ms or more.",
}
_Observed = tuple[Facets, Facets]
"""Facets of an answer, and of the sound it is compared with."""


@final
class ProsodyParams(Params):
    """Which facets are reported, and what they are compared with."""

    facets: tuple[FacetName, ...] = Field(default=FACETS, min_length=1, max_length=100)
    """Facets to report."""
    like: Whose | None = None
    """Also report how far they are from those of the gold sound, of the user's turn or of `metadata.voice_prompt`."""


@final
class Prosody(Metric):
    """Facets of prosody, with normal intervals."""

    Params = ProsodyParams
    needs = frozenset({"text", "waveform"})
    params: ProsodyParams

    @classmethod
    def dialogue_needs(cls, params: ProsodyParams, dialogue: Dialogue) -> str | None:
        return None if params.like is None else needs_sound_of(dialogue, params.like, option="like")

    @classmethod
    def instrument(cls, params: ProsodyParams) -> str:
        return INSTRUMENT

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        return self.conclude(groups, self.observe(groups))

    def observe(self, groups: Sequence[RolloutGroup]) -> list[_Observed]:
        found = []
        for group, rollout in zip(groups, first_rollouts(groups), strict=True):
            sound = None if rollout is None else rollout.waveform
            said = {} if rollout is None or sound is None else facets(sound, rollout.answer.text)
            like = self.params.like
            found.append((said, {} if like is None else facets_like(group.dialogue, like)))
        return found

    def conclude(self, groups: Sequence[RolloutGroup], observed: Sequence[_Observed]) -> list[Measurement]:
        measured = []
        for facet in self.params.facets:
            values = [said.get(facet) for said, _ in observed]
            described = mean(f"prosody_{facet}", values, UNITS[facet], says=_SAYS[facet])
            measured.append(replace(described, quality=False))
        if self.params.like is not None:
            measured += [self._off(facet, observed) for facet in self.params.facets]
        return measured

    def _off(self, facet: FacetName, observed: Sequence[_Observed]) -> Measurement:
        """Mean absolute difference of one facet."""
        far = [
            distance(facet, said[facet], low=wanted[facet], high=wanted[facet])
            if facet in said and facet in wanted
            else None
            for said, wanted in observed
        ]
        says = f"How far the {facet} is from that of {WHOM[self.params.like or 'target']}; less is nearer."
        return replace(mean(f"prosody_{facet}_off", far, DISTANCE_UNITS[facet], says=says), better="less")
