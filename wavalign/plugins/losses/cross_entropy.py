"""Imitate a demonstration: L_t = -log pi(y*_t | x, y*_<t).

Source: maximum likelihood under teacher forcing; the supervised half of WavAlign's objective (arXiv 2604.14932, Eq. 2).
"""

from typing import final

from wavalign.plugins.api import Loss, LossInputs, LossOutput
from wavalign.schema.base import Params


@final
class CrossEntropyParams(Params):
    """Nothing to choose."""


@final
class CrossEntropy(Loss):
    """Negative log-probability of every token, [B, S, T]."""

    Params = CrossEntropyParams
    family = "demonstrations"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def compute(self, inputs: LossInputs) -> LossOutput:
        return LossOutput(-inputs.logprobs)
