"""A share that moves on a straight line through the stage.

lambda = start + (end - start) * clip((progress - begin) / (until - begin), 0, 1), progress in 0..1.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Self, final

from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import override

from wavalign.plugins.api import Gate, GateReading
from wavalign.schema.base import Params

_Fraction = Annotated[float, Field(ge=0, le=1)]


@final
class LinearParams(Params):
    """Where the line starts and ends."""

    start: _Fraction
    """Lambda up to `begin`."""
    end: _Fraction
    """Lambda from `until` on."""
    begin: _Fraction = 0.0
    """Fraction of the stage where lambda begins to move."""
    until: _Fraction = 1.0
    """Fraction of the stage where lambda arrives."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.until <= self.begin:
            raise ValueError(f"`until` ({self.until}) must come after `begin` ({self.begin})")
        return self


@final
class Linear(Gate):
    """A schedule over the stage's progress."""

    Params = LinearParams
    needs_rewards = False
    params: LinearParams

    @override
    def update(self, rewards: Tensor | None, *, progress: float, noise: Tensor | None = None) -> GateReading:
        line = self.params
        travelled = min(max((progress - line.begin) / (line.until - line.begin), 0.0), 1.0)
        return GateReading((1 - travelled) * line.start + travelled * line.end)

    def state_dict(self) -> dict[str, Any]:
        return {}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        return
