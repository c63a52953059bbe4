"""Make the implicit rewards of a pair as far apart as its stated scores are.

With d = beta (log pi(y_w)/pi_ref(y_w) - log pi(y_l)/pi_ref(y_l)) and g = eta (score_w - score_l):

    kl       KL(Bernoulli(s(g)) || Bernoulli(s(d)))
    squared  (d - g)^2

A pair without both scores is left out and counted. Source: reward-aware preference optimisation (arXiv 2406.11704, and
as a family arXiv 2502.00203).
"""

from typing import Literal, final

import torch
from pydantic import Field
from torch.nn.functional import logsigmoid

from wavalign.plugins.api import Loss, LossInputs, LossOutput
from wavalign.plugins.pairs import PAIR, pairs_of, sides
from wavalign.schema.base import Params


@final
class RPOParams(Params):
    """Distance, and the scales of both rewards."""

    distance: Literal["kl", "squared"] = "kl"
    """`kl` between two preferences, or the `squared` difference of two gaps."""
    beta: float = Field(default=0.1, gt=0, le=1e6)
    """Scale of the implicit reward."""
    eta: float = Field(default=1.0, gt=0, le=1e6)
    """Scale of the stated scores; higher scores are better."""
    length_normalized: bool = False
    """Mean instead of sum over a side's tokens."""


@final
class RPO(Loss):
    """Distance of implicit from stated rewards, one value a pair, [groups]."""

    Params = RPOParams
    family = "pairs"
    unit = "group"
    members = PAIR
    params: RPOParams

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"ref_logprobs", "target_scores"})

    def compute(self, inputs: LossInputs) -> LossOutput:
        pairs = pairs_of(inputs, per_token=self.params.length_normalized, reference=True)
        margin = self.params.beta * pairs.ratios.gap
        stated = self.params.eta * sides(inputs, inputs.column("target_scores").flatten()).gap.to(margin.dtype)
        if self.params.distance == "squared":
            values = (margin - stated).square()
        else:
            held, wrong = torch.sigmoid(stated), torch.sigmoid(-stated)
            values = held * (logsigmoid(stated) - logsigmoid(margin))
            values = values + wrong * (logsigmoid(-stated) - logsigmoid(-margin))
        return LossOutput(values, {**pairs.metrics(self.params.beta), "stated_margin": stated})
