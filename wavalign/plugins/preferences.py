"""Shapes of a preference, shared by the losses that hold one against a reference: see the loss `dpo`."""

from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor

from wavalign.plugins.pairs import smoothed_logistic
from wavalign.schema.base import Params

Variant = Literal["sigmoid", "conservative", "robust", "hinge", "ipo"]


class PreferenceParams(Params):
    """Shape of the loss, and how strongly it holds on to the reference."""

    variant: Variant = "sigmoid"
    """`sigmoid`, `conservative`, `robust`, `hinge` or `ipo`."""
    beta: float = Field(default=0.1, gt=0, le=1e6)
    """Scale of the implicit reward; the larger, the nearer the policy stays to the reference. Of `ipo` its tau."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Rate e at which preferences are taken to be wrong, for `conservative` and `robust`."""
    length_normalized: bool = False
    """Mean instead of sum over a side's tokens. IPO's authors meant the mean, and TRL takes it there: say so."""

    @model_validator(mode="after")
    def _smooths(self) -> "PreferenceParams":
        smooth = self.variant in ("conservative", "robust")
        if smooth and self.label_smoothing == 0:
            raise ValueError(f"variant {self.variant} needs label_smoothing: at 0 it is sigmoid")
        if not smooth and self.label_smoothing > 0:
            raise ValueError(f"variant {self.variant} smooths no labels: take conservative or robust")
        return self


def preference_loss(gap: Tensor, options: PreferenceParams) -> Tensor:
    """Loss of log-ratio gaps [groups], chosen less rejected."""
    beta, smoothing = options.beta, options.label_smoothing
    margin = beta * gap
    if options.variant == "hinge":
        return (1 - margin).clamp(min=0)
    if options.variant == "ipo":
        return (gap - 1 / (2 * beta)).square()
    if options.variant == "robust":
        wrong = smoothed_logistic(-margin, 0)
        return ((1 - smoothing) * smoothed_logistic(margin, 0) - smoothing * wrong) / (1 - 2 * smoothing)
    return smoothed_logistic(margin, smoothing)
