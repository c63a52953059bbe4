"""Stay near the reference: L_t = an estimate of KL(policy || reference) from the sampled token alone.

With d = log pi_ref(y_t) - log pi(y_t): k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1. `unbiased` multiplies each by
pi(y_t) / pi_old(y_t), through which the gradient passes too: of k1 and k3 it is then that of the divergence at the
token, also where answers come from earlier weights.
Sources: Schulman, "Approximating KL divergence" (2020); the penalty of GRPO (arXiv 2402.03300, Eq. 4) is k3; weighed by
the ratio in DeepSeek-V3.2 (arXiv 2512.02556).
"""

from typing import final

from wavalign.plugins.api import Loss, LossInputs, LossOutput
from wavalign.plugins.ops import KLEstimator, RatioLevel, kl_estimate, ratio_of
from wavalign.schema.base import Params


@final
class KLParams(Params):
    """How the divergence is estimated."""

    estimator: KLEstimator = "k3"
    """`k1` (no gradient on average unless `unbiased`: for reading only), `k2` or `k3`."""
    unbiased: bool = False
    """Weigh each token's estimate by its ratio to the policy that sampled it."""
    ratio: RatioLevel = "token"
    """Of `unbiased`: each token's own ratio, or its sequence's geometric mean."""


@final
class KL(Loss):
    """Divergence from the reference at every token, [B, S, T]."""

    Params = KLParams
    family = "rollouts"
    params: KLParams

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"ref_logprobs", "old_logprobs"} if self.params.unbiased else {"ref_logprobs"})

    def compute(self, inputs: LossInputs) -> LossOutput:
        values = kl_estimate(inputs.logprobs, inputs.column("ref_logprobs"), self.params.estimator)
        if not self.params.unbiased:
            return LossOutput(values)
        log_ratio = inputs.logprobs - inputs.column("old_logprobs")
        return LossOutput(values * ratio_of(log_ratio, inputs.mask, inputs.segments, level=self.params.ratio).exp())
