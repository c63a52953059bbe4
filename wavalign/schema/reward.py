"""A reward as a recipe states it."""

from typing import Annotated, Literal, final

from pydantic import Field, model_validator

from wavalign.schema.bounds import DAY, MOST_WEIGHT
from wavalign.schema.calibration import CalibrationSection
from wavalign.schema.component import Component

_Bound = Annotated[float, Field(ge=-MOST_WEIGHT, le=MOST_WEIGHT)]


@final
class RewardSection(Component):
    """A reward plugin, how much it counts and what happens when it cannot score."""

    weight: float = Field(default=1.0, gt=0, le=MOST_WEIGHT)
    """Relative weight; weights are normalised to sum to 1, so that the total stays on the common scale."""
    scale: tuple[_Bound, _Bound] | None = None
    """Map the plugin's own range linearly to this one, e.g. `[1, 5]`. Omitted, values stay as they are."""
    calibration: CalibrationSection | None = Field(default=None, exclude_if=lambda found: found is None)
    """Correct values by what people gave (docs/calibration.md) before anything else is done with them: they are then on
    the people's scale, and `scale` maps from that."""
    on_failure: Literal["drop_sample", "drop_group", "renormalize", "abort"] = "drop_sample"
    """When the reward fails: drop the sample, drop its whole group, let the other rewards decide, or stop."""
    on_absent: Literal["lowest", "drop_sample", "drop_group"] = "lowest"
    """When the answer has nothing to score (no sound, no text, silence): it gets the lowest value of the scale, for
    that is the policy's doing; or drop the sample, or its whole group. Not counted as a failure."""
    guard: Literal["lowest", "drop_sample", "drop_group", "multiply"] | None = Field(
        default=None, exclude_if=lambda guard: guard is None
    )
    """Makes a guard of it: it takes no part in the total. An answer whose value is under `below` is worth the lowest
    (`lowest`), is left out (`drop_sample`), or its group is (`drop_group`); `multiply` leaves of every total as large a
    share above the lowest as the value is of its range."""
    below: _Bound | None = Field(default=None, exclude_if=lambda below: below is None)
    """What a guard's value must reach, in the plugin's own range; omitted, the middle of it."""
    stage: str | None = Field(default=None, exclude_if=lambda stage: stage is None)
    """Name of an earlier `reward_model` stage, in place of `model`: score with what it learned (`{type: reward_model,
    stage: NAME}`)."""
    timeout: float = Field(default=60.0, ge=0.001, le=7 * DAY)
    """Seconds after which a call counts as failed."""

    @model_validator(mode="after")
    def _rising_scale(self) -> "RewardSection":
        if self.scale is not None and self.scale[0] >= self.scale[1]:
            raise ValueError("scale must rise, e.g. [1, 5]")
        return self

    @model_validator(mode="after")
    def _guards_do_not_count(self) -> "RewardSection":
        if self.guard is None:
            if self.below is not None:
                raise ValueError("`below` is for a guard: say what becomes of such an answer, e.g. `guard: lowest`")
            return self
        if self.weight != 1 or self.scale is not None:
            raise ValueError("a guard takes no part in the total, so that it has neither `weight` nor `scale`")
        if self.guard == "multiply" and self.below is not None:
            raise ValueError("`guard: multiply` takes off by the value: leave out `below`, or use `guard: lowest`")
        return self
