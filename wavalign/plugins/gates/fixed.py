"""A constant share: lambda_t = value. Source: the fixed-mix rows of arXiv 2604.14932, Table 3."""

from collections.abc import Mapping
from typing import Annotated, Any, final

from pydantic import Field
from torch import Tensor
from typing_extensions import override

from wavalign.plugins.api import Gate, GateReading
from wavalign.schema.base import Params


@final
class FixedParams(Params):
    """The share."""

    value: Annotated[float, Field(ge=0, le=1)]
    """Lambda at every step."""


@final
class Fixed(Gate):
    """Always the same value."""

    Params = FixedParams
    needs_rewards = False
    params: FixedParams

    @override
    def update(self, rewards: Tensor | None, *, progress: float, noise: Tensor | None = None) -> GateReading:
        return GateReading(self.params.value)

    def state_dict(self) -> dict[str, Any]:
        return {}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        return
