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

from typing import final

from wavalign.plugins.api import Loss, LossInputs, LossOutput
from wavalign.plugins.pairs import PAIR, pairs_of
from wavalign.plugins.preferences import PreferenceParams, preference_loss


@final
class DPOParams(PreferenceParams):
    """Shape of the loss, and how strongly it holds on to the reference."""


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
        return LossOutput(preference_loss(pairs.ratios.gap, self.params), pairs.metrics(self.params.beta))
