"""Prefer the chosen side of a pair without a reference, and imitate it.

L = -log s(beta (log pi(y_w) - log pi(y_l))) + nll * (-log pi(y_w), the mean over tokens as its own term).
Source: CPO (arXiv 2401.08417, Eq. 5).
"""

from typing import final

from pydantic import Field

from wavalign.plugins.api import Loss, LossInputs, LossOutput, Regularizer
from wavalign.plugins.pairs import PAIR, imitated, pairs_of, smoothed_logistic
from wavalign.schema.base import Params


@final
class CPOParams(Params):
    """Scale, smoothing, and how much the chosen side is imitated."""

    beta: float = Field(default=0.1, gt=0, le=1e6)
    """Scale of the log-probs."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Rate at which preferences are taken to be wrong."""
    length_normalized: bool = False
    """Mean instead of sum over a side's tokens."""
    nll: float = Field(default=1.0, ge=0, le=1e6)
    """Weight of the cross entropy on the chosen side, which comes along as a term of its own; TRL's cpo_alpha."""


@final
class CPO(Loss):
    """Contrastive preference, one value a pair, [groups]."""

    Params = CPOParams
    family = "pairs"
    unit = "group"
    members = PAIR
    params: CPOParams

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def compute(self, inputs: LossInputs) -> LossOutput:
        beta = self.params.beta
        pairs = pairs_of(inputs, per_token=self.params.length_normalized, reference=False)
        values = smoothed_logistic(beta * pairs.logprobs.gap, self.params.label_smoothing)
        return LossOutput(values, pairs.metrics(beta))

    def regularizers(self) -> tuple[Regularizer, ...]:
        return imitated(self.params.nll)
