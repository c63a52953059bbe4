"""Make the chosen side likelier and the rejected one less likely, each against its own zero.

L = 1 - s(beta r_w) + s(beta r_l), with r = log pi(y)/pi_ref(y) of a side. For pairs whose chosen side is better than
what the policy says by itself.
Source: anchored preference optimisation, APO-zero (arXiv 2408.06266, Eq. 7).
"""

from typing import final

import torch
from pydantic import Field

from wavalign.plugins.api import Loss, LossInputs, LossOutput
from wavalign.plugins.pairs import PAIR, pairs_of
from wavalign.schema.base import Params


@final
class APOZeroParams(Params):
    """Scale and length normalisation."""

    beta: float = Field(default=0.1, gt=0, le=1e6)
    """Scale of the implicit reward."""
    length_normalized: bool = False
    """Mean instead of sum over a side's tokens."""


@final
class APOZero(Loss):
    """Anchored preference of each side by itself, one value a pair, [groups]."""

    Params = APOZeroParams
    family = "pairs"
    unit = "group"
    members = PAIR
    params: APOZeroParams

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"ref_logprobs"})

    def compute(self, inputs: LossInputs) -> LossOutput:
        beta = self.params.beta
        pairs = pairs_of(inputs, per_token=self.params.length_normalized, reference=True)
        chosen, rejected = torch.sigmoid(-beta * pairs.ratios.chosen), torch.sigmoid(beta * pairs.ratios.rejected)
        return LossOutput(chosen + rejected, pairs.metrics(beta))
