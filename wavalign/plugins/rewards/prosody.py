"""Is it said as it should be? Facets of prosody within stated bands, or near those of a sound of the dialogue.

    d_f = distance of facet f from its band, in `tolerance`s      r = sum_f weight_f exp(-d_f^2 / 2) / sum_f weight_f

Facets: pitch, pitch_range, level, rate, pauses (`plugins.speech.facets`). It knows nothing of words, but for `rate`,
which counts the letters of the written answer. What fools it: docs/rewards.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Self, final

from pydantic import Field, model_validator

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.plugins.speech.answers import sound_of
from wavalign.plugins.speech.compared import WHOM, Whose, facets_like, needs_sound_of, text_of
from wavalign.plugins.speech.facets import FACETS, INSTRUMENT, FacetName, distance, facets
from wavalign.schema.base import Params
from wavalign.schema.bounds import MOST_WEIGHT

_Value = Annotated[float, Field(ge=-1e6, le=1e6)]


class Band(Params):
    """What a facet should be: from `low` to `high` (one is enough), or `like` that of a sound."""

    low: _Value | None = None
    """Lowest value that is right."""
    high: _Value | None = None
    """Highest value that is right."""
    like: Whose | None = None
    """The value to have is that of the gold sound, of the user's last turn, or of `metadata.voice_prompt`."""
    weight: float = Field(default=1.0, gt=0, le=MOST_WEIGHT)
    """Share in the score beside the other facets."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        banded = self.low is not None or self.high is not None
        if banded == (self.like is not None):
            raise ValueError("give a facet `low`, `high` or both, or else `like`")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError("low must not be larger than high")
        return self


@final
class PitchBand(Band):
    """Median pitch in Hz."""

    low: float | None = Field(default=None, gt=0, le=1e6)
    """Lowest value that is right."""
    high: float | None = Field(default=None, gt=0, le=1e6)
    """Highest value that is right."""
    tolerance: float = Field(default=2.0, gt=0, le=1e6)
    """Semitones outside by which the score falls to 0.61."""


@final
class PitchRangeBand(Band):
    """Pitch range in semitones, from the 10th to the 90th percentile."""

    tolerance: float = Field(default=2.0, gt=0, le=1e6)
    """Semitones outside by which the score falls to 0.61."""


@final
class LevelBand(Band):
    """Level in dB re full scale: -20 is loud speech, -40 faint."""

    tolerance: float = Field(default=3.0, gt=0, le=1e6)
    """Decibels outside by which the score falls to 0.61."""


@final
class RateBand(Band):
    """Speaking rate in letters a second: some 12 to 15 of English."""

    tolerance: float = Field(default=2.0, gt=0, le=1e6)
    """Letters a second outside by which the score falls to 0.61."""


@final
class PauseBand(Band):
    """Share of the time in pauses, 0 to 1."""

    tolerance: float = Field(default=0.1, gt=0, le=1e6)
    """Share of the time outside by which the score falls to 0.61."""


@final
class ProsodyParams(Params):
    """Which facets count, and what they should be."""

    pitch: PitchBand | None = None
    """Median pitch."""
    pitch_range: PitchRangeBand | None = None
    """How far the pitch moves."""
    level: LevelBand | None = None
    """How loud it is."""
    rate: RateBand | None = None
    """How fast it is said."""
    pauses: PauseBand | None = None
    """How much of the time nothing is said."""

    @model_validator(mode="after")
    def _names_a_facet(self) -> Self:
        if not any(True for _ in bands(self)):
            raise ValueError(f"name at least one facet: {', '.join(FACETS)}")
        return self


def bands(params: ProsodyParams) -> Iterator[tuple[FacetName, Band, float]]:
    """Facets that count, with their bands and tolerances."""
    if params.pitch is not None:
        yield "pitch", params.pitch, params.pitch.tolerance
    if params.pitch_range is not None:
        yield "pitch_range", params.pitch_range, params.pitch_range.tolerance
    if params.level is not None:
        yield "level", params.level, params.level.tolerance
    if params.rate is not None:
        yield "rate", params.rate, params.rate.tolerance
    if params.pauses is not None:
        yield "pauses", params.pauses, params.pauses.tolerance


@final
class Prosody(Reward):
    """From 0 to 1, where 1 is every facet within its band."""

    Params = ProsodyParams
    needs = frozenset({"text", "waveform"})
    range = (0.0, 1.0)
    params: ProsodyParams

    @classmethod
    def dialogue_needs(cls, params: ProsodyParams, dialogue: Dialogue) -> str | None:
        for facet, band, _ in bands(params):
            if band.like is None:
                continue
            if lacks := needs_sound_of(dialogue, band.like, option=f"{facet}.like"):
                return lacks
            if facet == "rate" and not text_of(dialogue, band.like):
                return f"no text of {WHOM[band.like]}, whose rate is compared with: give `rate` a band"
        return None

    @classmethod
    def instrument(cls, params: ProsodyParams) -> str:
        return INSTRUMENT

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        sound = sound_of(rollout)
        if isinstance(sound, Scored):
            return sound
        found, total, weights = facets(sound, rollout.answer.text), 0.0, 0.0
        for facet, band, tolerance in bands(self.params):
            wanted = _wanted(facet, band, dialogue)
            if wanted is None:
                return Scored(None, f"dialogue {dialogue.id} has no sound with a {facet} to compare with")
            if facet not in found:
                return Scored.absent(f"the answer's {facet} cannot be measured")
            far = distance(facet, found[facet], low=wanted[0], high=wanted[1]) / tolerance
            total, weights = total + band.weight * math.exp(-far * far / 2.0), weights + band.weight
        details: Mapping[str, float | str] = {facet: found[facet] for facet, _, _ in bands(self.params)}
        return Scored(total / weights, details=details)


def _wanted(facet: FacetName, band: Band, dialogue: Dialogue) -> tuple[float | None, float | None] | None:
    """The band's ends in the facet's unit; None where a sound to be like has no such facet."""
    if band.like is None:
        return band.low, band.high
    value = facets_like(dialogue, band.like).get(facet)
    return None if value is None else (value, value)
