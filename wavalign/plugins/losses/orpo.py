"""Imitate the chosen side of a pair, and raise its odds over those of the rejected one; no reference.

L = nll * (-log pi(y_w), the mean over tokens as its own term) - beta log s(log odds(y_w) - log odds(y_l)), with
odds(y) = p / (1 - p) and p = exp of a side's mean log-prob.
Source: ORPO (arXiv 2403.07691, Eqs. 4 to 6), whose lambda is `beta` here as in TRL.
"""

from typing import final

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from wavalign.plugins.api import Loss, LossInputs, LossOutput, Regularizer
from wavalign.plugins.pairs import PAIR, Pairs, imitated, pairs_of
from wavalign.schema.base import Params

CERTAIN = -1e-6
"""Largest mean log-prob whose odds are taken: those of certainty are infinite."""


@final
class ORPOParams(Params):
    """Weights of the two parts."""

    beta: float = Field(default=0.1, gt=0, le=1e6)
    """Weight of the odds ratio: the paper's lambda."""
    length_normalized: bool = True
    """Mean over a side's tokens, as in the paper; false takes the probability of the whole side."""
    nll: float = Field(default=1.0, ge=0, le=1e6)
    """Weight of the cross entropy on the chosen side, which comes along as a term of its own."""


@final
class ORPO(Loss):
    """Odds ratio of the two sides, one value a pair, [groups]."""

    Params = ORPOParams
    family = "pairs"
    unit = "group"
    members = PAIR
    params: ORPOParams

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def compute(self, inputs: LossInputs) -> LossOutput:
        beta = self.params.beta
        pairs = pairs_of(inputs, per_token=self.params.length_normalized, reference=False)
        log_odds = _log_odds(pairs)
        return LossOutput(-beta * logsigmoid(log_odds), {**pairs.metrics(beta), "log_odds_ratio": log_odds.detach()})

    def regularizers(self) -> tuple[Regularizer, ...]:
        return imitated(self.params.nll)


def _log_odds(pairs: Pairs) -> Tensor:
    """log of the ratio of odds, [groups]."""

    def of(logprobs: Tensor) -> Tensor:
        """log p - log(1 - p) of log p [groups]."""
        bounded = logprobs.clamp(max=CERTAIN)
        return bounded - torch.log(-torch.expm1(bounded))

    return of(pairs.logprobs.chosen) - of(pairs.logprobs.rejected)
