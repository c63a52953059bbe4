"""A judge's calibration: what a recipe says of it, and the file that `wavalign judge calibrate` writes."""

from collections.abc import Mapping
from typing import Annotated, Literal, final

from pydantic import Field, model_validator

from wavalign.schema.base import RecipePath, Section

Count = Annotated[int, Field(ge=0)]
Span = tuple[float, float]


@final
class CalibrationSection(Section):
    """Which calibration a reward's values are corrected by."""

    file: RecipePath
    """What `wavalign judge calibrate ... -o FILE` has written for this very reward."""
    correction: Literal["affine", "isotonic", "none"] = "affine"
    """Turn every value into what people gave answers of that value: by a straight line, or by the best rising curve.
    `none` leaves values as they are. In each case the noise that was measured by asking several times stands in for
    the variance of a value where the reward states none."""


@final
class Estimate(Section):
    """A number with its 95 % interval; null where the data does not say."""

    value: float | None
    low: float | None = None
    high: float | None = None
    count: Count
    """Answers, or prompts, that it was made of."""


@final
class Affine(Section):
    """human = offset + slope * judge, cut to the people's scale."""

    offset: float
    slope: float


@final
class Isotonic(Section):
    """The rising curve through these places, straight between them and level outside, cut to the people's scale."""

    knots: Annotated[tuple[tuple[float, float], ...], Field(min_length=2)]
    """(judge, human), rising in both."""

    @model_validator(mode="after")
    def _rises(self) -> "Isotonic":
        for (x, y), (further, higher) in zip(self.knots, self.knots[1:], strict=False):
            if further <= x or higher < y:
                raise ValueError("the knots of a rising curve rise")
        return self


@final
class Replies(Section):
    """What came of asking."""

    asked: Count
    judged: Count
    failed: Count
    absent: Count
    """Answers that had nothing to score."""
    reasons: Mapping[str, Count] = Field(default_factory=dict)
    """Why there was no number, and how often."""
    counts: Mapping[str, float] = Field(default_factory=dict)
    """What the reward itself counts, e.g. requests and cost."""


@final
class Identity(Section):
    """Which judge it was: another type, model or rubric is another judge."""

    type: str
    fingerprint: str
    """Of its type, its options and the files they name."""
    instrument: str = ""
    """What it measures with, in words."""


@final
class Calibration(Section):
    """The file."""

    format: Literal[1] = 1
    recipe: str
    reward: str
    judge: Identity
    data: str
    """The people's scores."""
    range: tuple[float | None, float | None]
    """Of the reward's values; null where it is not bounded."""
    scale: Span
    """Of the people's scores."""
    answers: Count
    """That have people's scores and a value of the judge."""
    prompts: Count
    raters: tuple[Count, Count]
    """Fewest and most people to an answer."""
    repeats: Annotated[int, Field(ge=1)]
    replies: Replies
    statistics: Mapping[str, Estimate]
    parts: Mapping[str, Mapping[str, Estimate]] = Field(default_factory=dict)
    """By `key=value`, the same of a part of the answers."""
    noise: float | None
    """Variance of a value's own error, in the square of the reward's unit; null where nothing was asked twice."""
    affine: Affine | None
    isotonic: Isotonic | None
    prompts_left_out: Mapping[str, Count] = Field(default_factory=dict)
    """Why prompts have no rank correlation of their own, and how many."""


@final
class Correction(Section):
    """A calibration as a run uses it."""

    line: Affine | None = None
    curve: Isotonic | None = None
    """At most one of the two; with neither, values stay as they are."""
    scale: Span | None = None
    """The scale of corrected values."""
    noise: float | None = None
    """Variance, before the correction, of values that state none."""
