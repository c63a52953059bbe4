"""What is measured on held-out data, and when."""

from collections.abc import Mapping
from typing import Literal, final

from pydantic import Field

from wavalign.schema.base import Section
from wavalign.schema.bounds import MOST_STEPS, Name, Steps
from wavalign.schema.component import Component
from wavalign.schema.sampling import EvaluationSampling


class Watched(Section):
    """A measured value, and which way is better."""

    metric: str = Field(pattern=r"^[^/]+/.+$")
    """SPLIT/VALUE as in metrics.jsonl, e.g. `heldout/heard_answer`."""
    mode: Literal["max", "min"] = "max"
    """Whether more or less is better."""


class StopEarly(Watched):
    """When a stage ends before its last step."""

    patience: int = Field(default=3, ge=1, le=MOST_STEPS)
    """Measurements in a row without an improvement, after which the stage ends."""
    min_delta: float = Field(default=0.0, ge=0, le=1e6)
    """An improvement is more than this."""


@final
class StopRounds(StopEarly):
    """When the rounds of a `repeat` end before the last one; each is measured by the last stage in it that measures."""

    patience: int = Field(default=1, ge=1, le=MOST_STEPS)
    """Rounds in a row without an improvement, after which no further one begins."""


@final
class BestOf(Section):
    """Measure the best of several answers: the policy and a reward together, at so many times the sampling."""

    n: int = Field(ge=2, le=4096)
    """Answers drawn to every held-out dialogue, at `evaluation.sampling`, whose temperature is then above 0."""
    reward: Name | None = None
    """Which of `rewards` says what is best; omitted, the weighted mean of all."""


@final
class EvaluationSection(Section):
    """Metrics on every split of `data.evaluation`, beside the same metrics on the gold answers."""

    metrics: Mapping[Name, Component] = Field(default_factory=dict)
    """Metric plugins by name."""
    sampling: EvaluationSampling = EvaluationSampling()
    """How answers are sampled; greedy unless told otherwise."""
    best_of: BestOf | None = Field(default=None, exclude_if=lambda best: best is None)
    """Measure the best of several answers instead of one."""
    at_start: bool = True
    """Measure before the first step."""
    at_end: bool = True
    """Measure after the last step."""
    ceiling: bool = True
    """Also measure the gold answers: what the metrics can reach at most."""
    every: Steps = 0
    """Also every so many steps; 0 never."""
    limit: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    """At most so many dialogues per split."""
    samples: int = Field(default=8, ge=0, le=10_000)
    """Answers per split kept with sound for the report, the same dialogues every time."""
    suspicious: int = Field(default=4, ge=0, le=10_000)
    """Further answers per split kept with sound because something is odd about them: cut off, empty, repeating, or
    heard otherwise than written."""
