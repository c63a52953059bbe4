"""The optimiser and its schedule."""

from typing import Annotated, Literal, final

from pydantic import Field

from wavalign.schema.base import Section
from wavalign.schema.bounds import Steps

_Decay = Annotated[float, Field(ge=0, lt=1)]


@final
class ScheduleSection(Section):
    """Learning rate over a stage: linear warm-up, then the shape, down to a fraction."""

    shape: Literal["constant", "linear", "cosine"] = "constant"
    """Decay after the warm-up."""
    warmup_steps: Steps = 0
    """Steps from 0 to the full rate."""
    final_fraction: float = Field(default=0.0, ge=0, le=1)
    """Rate at the last step, relative to the full rate."""


@final
class OptimSection(Section):
    """AdamW."""

    learning_rate: float = Field(default=1e-6, gt=0, le=100)
    """Full rate."""
    betas: tuple[_Decay, _Decay] = (0.9, 0.95)
    """Decay of the two moments."""
    epsilon: float = Field(default=1e-8, ge=1e-30, le=1)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=0.0, ge=0, le=1000)
    """Decoupled decay of matrices; vectors (norms, biases) are not decayed."""
    max_grad_norm: float = Field(default=1.0, gt=0, le=1e12)
    """Global norm at which gradients are clipped."""
    schedule: ScheduleSection = ScheduleSection()
    """Rate over the steps."""
