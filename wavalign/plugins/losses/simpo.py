"""Prefer the chosen side of a pair by its mean log-prob, by a margin and without a reference.

L = -log s(beta / |y_w| log pi(y_w) - beta / |y_l| log pi(y_l) - margin). Source: SimPO (arXiv 2405.14734, Eq. 6).
"""

from typing import final

from pydantic import Field

from wavalign.plugins.api import Loss, LossInputs, LossOutput
from wavalign.plugins.pairs import PAIR, pairs_of, smoothed_logistic
from wavalign.schema.base import Params


@final
class SimPOParams(Params):
    """Scale, margin and length normalisation."""

    beta: float = Field(default=2.0, gt=0, le=1e6)
    """Scale of the mean log-probs."""
    margin: float = Field(default=1.0, ge=0, le=1e6)
    """How much better the chosen side is to be: the paper's gamma, which TRL calls simpo_gamma."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Rate at which preferences are taken to be wrong."""
    length_normalized: bool = True
    """Mean over a side's tokens, which is what the method is about; false takes the sum."""


@final
class SimPO(Loss):
    """Preference by mean log-probs, one value a pair, [groups]."""

    Params = SimPOParams
    family = "pairs"
    unit = "group"
    members = PAIR
    params: SimPOParams

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def compute(self, inputs: LossInputs) -> LossOutput:
        beta = self.params.beta
        pairs = pairs_of(inputs, per_token=self.params.length_normalized, reference=False)
        margin = beta * pairs.logprobs.gap - self.params.margin
        return LossOutput(smoothed_logistic(margin, self.params.label_smoothing), pairs.metrics(beta))
