"""What a `pairs` stage makes of answers: who is paired how, which pairs are left out, what is kept of before."""

from collections.abc import Mapping
from typing import Annotated, Literal, final

from pydantic import Field, field_validator

from wavalign.schema.base import Section
from wavalign.schema.bounds import MOST_ROWS, MOST_WEIGHT, Name
from wavalign.schema.reward import RewardSection

_Ratio = Annotated[float, Field(gt=0, le=1e6)]


class Pairing(Section):
    """What is said of every way of pairing."""

    finished: Annotated[tuple[Literal["chosen", "rejected"], ...], Field(max_length=2)] = ("chosen", "rejected")
    """Sides that must have come to their end by themselves, as golden answers and those of files have. Of another side
    an answer that was cut off is taken too, and learned as if it ended there."""
    merge: Literal["none", "previous", "all"] = "none"
    """Within a `repeat`, what earlier rounds made that is written beside the new: what the round before made
    (SpeechAlign), or what all rounds before did."""
    chunk: int = Field(default=64, ge=1, le=MOST_ROWS)
    """Prompts done together on one process; after each chunk what was made is safe on the disk."""


class PairsOfTwo(Pairing):
    """Ways that end in a chosen and a rejected answer."""

    length_ratio: tuple[_Ratio, _Ratio] | None = (1 / 3, 3.0)
    """Shortest and longest rejected answer as a share of the chosen one: in codes where both have them, else in
    seconds, else in characters. Pairs beyond are left out and counted; null takes any."""

    @field_validator("length_ratio")
    @classmethod
    def _rising(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] > value[1]:
            raise ValueError("length_ratio is the least and the greatest share, e.g. [0.5, 2]")
        return value


@final
class GoldenPairs(PairsOfTwo):
    """The record's golden answer against what the policy said (SpeechAlign)."""

    type: Literal["golden"] = "golden"
    """How answers are paired."""
    answers: Literal["first", "random", "all"] = "first"
    """Which of several answers to a prompt is the rejected one; `all` makes a pair of each."""
    gold: Literal["reference", "demonstrations"] = "reference"
    """Where golden answers are: in the record of the answer, as `generate` keeps that of the prompt, or under
    `data.demonstrations`, by the prompt's id."""


@final
class Facet(Section):
    """One number that answers are compared by."""

    weight: float = Field(default=1.0, gt=0, le=MOST_WEIGHT)
    """How much it counts beside the others."""
    mode: Literal["max", "min"] = "max"
    """Whether more or less of it is better, e.g. `min` for a rate of word errors."""


class Ranked(Section):
    """How the answers to one prompt are put in order."""

    facets: Mapping[Name, Facet] = Field(default_factory=dict)
    """What counts: names of the stage's `rewards`, which it computes, or of `metadata.scores` of the records. Left out,
    all `rewards` by their weights; where there are none, the names under `metadata.scores`, which weigh the same."""
    rank: Literal["weighted", "pareto"] = "weighted"
    """By the weighted mean of the facets; or by fronts: an answer of the first is beaten by none in all facets, one of
    the second by those of the first alone, ... Within a front the weighted mean decides who comes first."""
    ties: Literal["first", "shorter", "longer", "random"] = "first"
    """Which of equally good answers comes first."""
    top: int = Field(default=1, ge=1, le=MOST_ROWS)
    """How many of the best are taken; for pairs as many of the worst, and no answer is on both sides."""


@final
class ScoredPairs(PairsOfTwo, Ranked):
    """Of several answers to one prompt the best against the worst."""

    type: Literal["scored"]
    """How answers are paired."""
    match: Literal["rank", "all"] = "rank"
    """The best with the worst, the second best with the second worst, ...; or each of the best with each of the
    worst."""
    min_gap: float = Field(default=0.0, ge=0, le=MOST_WEIGHT)
    """The chosen answer is better by more than this: in the weighted mean, or in fronts."""


@final
class BestAnswers(Pairing, Ranked):
    """Of several answers to one prompt the best, as records to imitate (rejection sampling, expert iteration)."""

    type: Literal["best"]
    """How answers are chosen."""
    min_score: float | None = Field(default=None, ge=-MOST_WEIGHT, le=MOST_WEIGHT)
    """The least weighted mean of the facets that is worth to be imitated; null takes whatever is best."""


@final
class GivenPairs(PairsOfTwo):
    """Records that are pairs already, e.g. of a file that people judged."""

    type: Literal["given"]
    """How answers are paired."""


PairsSection = Annotated[GoldenPairs | ScoredPairs | BestAnswers | GivenPairs, Field(discriminator="type")]
"""What a `pairs` stage writes of `data.samples`."""


def rewards_asked(section: PairsSection, rewards: Mapping[str, RewardSection]) -> tuple[str, ...]:
    """Which of a stage's `rewards` decide who is better: facets and guards, all where no facets are named."""
    if not isinstance(section, Ranked):
        return ()
    return tuple(name for name, each in rewards.items() if not section.facets or name in section.facets or each.guard)
