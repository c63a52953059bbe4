"""Raise answers that are desirable, lower those that are not; pairs are not needed.

With r = log pi(y)/pi_ref(y) and z = max(0, mean of log pi(y')/pi_ref(y') over answers y' to other questions), which
estimates KL(pi || pi_ref) and has no gradient:

    desirable (member 0)    desirable_weight (1 - s(beta (r - z)))
    undesirable (member 1)  undesirable_weight (1 - s(beta (z - r)))

Source: KTO (arXiv 2402.01306), with z inside beta as in the authors' and TRL's code.
"""

from typing import final

import torch
from pydantic import Field

from wavalign.plugins.api import Loss, LossInputs, LossOutput
from wavalign.plugins.pairs import CHOSEN, preferred, row_logprobs
from wavalign.schema.base import Params


@final
class KTOParams(Params):
    """Scale, and what either side counts."""

    beta: float = Field(default=0.1, gt=0, le=1e6)
    """Scale of the implicit reward."""
    desirable_weight: float = Field(default=1.0, ge=0, le=1e6)
    """Weight of desirable answers."""
    undesirable_weight: float = Field(default=1.0, ge=0, le=1e6)
    """Weight of undesirable answers. The paper wants weight times number of answers of the two within 1 to 4/3."""
    length_normalized: bool = False
    """Mean instead of sum over an answer's tokens, in r and in z."""


@final
class KTO(Loss):
    """Value of an answer against the reference point, [B]."""

    Params = KTOParams
    family = "pairs"
    unit = "sequence"
    params: KTOParams

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"ref_logprobs", self._point})

    @property
    def _point(self) -> str:
        return "mean_reference_point" if self.params.length_normalized else "reference_point"

    def compute(self, inputs: LossInputs) -> LossOutput:
        beta, point = self.params.beta, inputs.column(self._point).flatten()
        gap = inputs.logprobs - inputs.column("ref_logprobs")
        ratio = row_logprobs(inputs, gap, per_token=self.params.length_normalized)
        desirable = inputs.member == CHOSEN
        value = torch.where(desirable, ratio - point, point - ratio)
        wanted, unwanted = value.new_tensor([self.params.desirable_weight, self.params.undesirable_weight])
        weight = torch.where(desirable, wanted, unwanted)
        moved = value.detach()
        metrics = {
            "margin": beta * moved,
            "accuracy": preferred(moved),
            "desirable": desirable.to(moved.dtype),
            "reward": beta * ratio.detach(),
            "reference_point": point,
        }
        return LossOutput(weight * torch.sigmoid(-beta * value), metrics)
