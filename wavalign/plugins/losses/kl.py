"""Stay near the reference: L_t = an estimate of KL(policy || reference) from the sampled token alone.

With d = log pi_ref(y_t) - log pi(y_t): k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1.
Source: Schulman, "Approximating KL divergence" (2020); the penalty of GRPO (arXiv 2402.03300, Eq. 4) is k3.
"""

from typing import final

from wavalign.plugins.api import Loss, LossInputs, LossOutput
from wavalign.plugins.ops import KLEstimator, kl_estimate
from wavalign.schema.base import Params


@final
class KLParams(Params):
    """How the divergence is estimated."""

    estimator: KLEstimator = "k3"
    """`k1` (no gradient on average: for reading only), `k2` or `k3`."""


@final
class KL(Loss):
    """Divergence from the reference at every token, [B, S, T]."""

    Params = KLParams
    family = "rollouts"
    params: KLParams

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"ref_logprobs"})

    def compute(self, inputs: LossInputs) -> LossOutput:
        ref_logprobs = inputs.column("ref_logprobs")
        return LossOutput(kl_estimate(inputs.logprobs, ref_logprobs, self.params.estimator))
