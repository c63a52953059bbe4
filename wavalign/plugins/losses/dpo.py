"""Prefer the chosen side of a pair to the rejected one, relative to the reference.

With the margin d = beta (log pi(y_w)/pi_ref(y_w) - log pi(y_l)/pi_ref(y_l)), log-probs summed over a side's tokens:

    sigmoid       -log s(d)                                              DPO (arXiv 2305.18290, Eq. 7)
    conservative  -(1 - e) log s(d) - e log s(-d)                        labels that are wrong at rate e (cDPO)
    robust        [-(1 - e) log s(d) + e log s(-d)] / (1 - 2 e)          unbiased under such labels (arXiv 2403.00409)
    hinge         max(0, 1 - d)                                          SLiC (arXiv 2305.10425)
    ipo           (d / beta - 1 / (2 beta))^2                            IPO (arXiv 2310.12036, Eq. 17)

SPIN (arXiv 2401.01335) is `sigmoid` with its lambda as `beta`, golden answers chosen and the policy's own rejected, and
so is SpeechAlign's preference loss (arXiv 2404.05600), printed without a beta: beta 1.
"""

from typing import Literal, final

from pydantic import Field, model_validator
from torch import Tensor

from wavalign.plugins.api import Loss, LossInputs, LossOutput
from wavalign.plugins.pairs import PAIR, pairs_of, smoothed_logistic
from wavalign.schema.base import Params

Variant = Literal["sigmoid", "conservative", "robust", "hinge", "ipo"]


@final
class DPOParams(Params):
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
    def _smooths(self) -> "DPOParams":
        smooth = self.variant in ("conservative", "robust")
        if smooth and self.label_smoothing == 0:
            raise ValueError(f"variant {self.variant} needs label_smoothing: at 0 it is sigmoid")
        if not smooth and self.label_smoothing > 0:
            raise ValueError(f"variant {self.variant} smooths no labels: take conservative or robust")
        return self


@final
class DPO(Loss):
    """Direct preference optimisation, one value a pair, [groups]."""

    Params = DPOParams
    family = "pairs"
    unit = "group"
    members = PAIR
    params: DPOParams

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"ref_logprobs"})

    def compute(self, inputs: LossInputs) -> LossOutput:
        pairs = pairs_of(inputs, per_token=self.params.length_normalized, reference=True)
        return LossOutput(self._values(pairs.ratios.gap), pairs.metrics(self.params.beta))

    def _values(self, gap: Tensor) -> Tensor:
        """Loss of log-ratio gaps [groups]."""
        beta, smoothing = self.params.beta, self.params.label_smoothing
        margin = beta * gap
        if self.params.variant == "hinge":
            return (1 - margin).clamp(min=0)
        if self.params.variant == "ipo":
            return (gap - 1 / (2 * beta)).square()
        if self.params.variant == "robust":
            wrong = smoothed_logistic(-margin, 0)
            return ((1 - smoothing) * smoothed_logistic(margin, 0) - smoothing * wrong) / (1 - 2 * smoothing)
        return smoothed_logistic(margin, smoothing)
