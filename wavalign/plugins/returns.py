"""What token-level advantages share: discounted sums, whitening, and a divergence paid in the reward.

Letters: N answers, T steps.
"""

from collections.abc import Mapping
from typing import Any, final

import torch
from pydantic import Field
from torch import Tensor

from wavalign.plugins.api import StepInputs
from wavalign.plugins.ops import KLEstimator, kl_estimate
from wavalign.schema.base import Section

_WHITE = 1e-8
"""Added to a variance before its root is divided by."""
_LARGEST_ERROR = 0.2
"""Of the divergence relative to its target, as the controller takes it."""


@final
class KLInReward(Section):
    """A divergence from the reference that every step pays for."""

    coefficient: float = Field(default=0.0, ge=0, le=1e6)
    """What it costs; 0 loads no reference. With a target it is where the controller begins."""
    estimator: KLEstimator = "k1"
    """How it is estimated from the sampled token, see the `kl` loss; no gradient passes, so that k1 has no fault."""
    target: float | None = Field(default=None, gt=0, le=1e6)
    """Divergence of an answer (its steps' sum) that the coefficient is moved towards; null keeps it as it is."""
    horizon: float = Field(default=10_000, gt=0, le=1e12)
    """Answers over which an error of the full width would move the coefficient by a fifth of itself."""


@final
class KLPenalty:
    """Takes the divergence out of rewards; remembers the coefficient where it adapts.

    After each batch of n answers: c <- c (1 + clip(KL / target - 1, -0.2, 0.2) n / horizon), with KL the mean over
    answers of the sum over their steps. Source: Ziegler et al. 2019 (arXiv 1909.08593, section 2.2).
    """

    def __init__(self, options: KLInReward) -> None:
        self._options, self.coefficient = options, options.coefficient

    @property
    def needs(self) -> frozenset[str]:
        """What must be known of the steps."""
        return frozenset({"ref_logprobs"}) if self._options.coefficient else frozenset()

    def take(self, inputs: StepInputs) -> tuple[Tensor, dict[str, float]]:
        """Rewards [N, T] without what the divergence costs, and what is logged; then the coefficient moves."""
        if inputs.log_ratio is None:
            return inputs.rewards, {}
        ratio = torch.where(inputs.mask, inputs.log_ratio, 0.0)
        paid = kl_estimate(ratio, torch.zeros_like(ratio), self._options.estimator)  # 0 of a ratio that is 0
        answers = int(inputs.mask.any(dim=1).sum())
        mean = float(paid.sum()) / max(answers, 1)
        logged = {"kl": mean, "kl_coefficient": self.coefficient}
        rewards = torch.where(inputs.present[:, None], inputs.rewards - self.coefficient * paid, 0.0)
        if self._options.target is not None:
            error = min(max(mean / self._options.target - 1, -_LARGEST_ERROR), _LARGEST_ERROR)
            self.coefficient *= max(1 + error * answers / self._options.horizon, 0.0)
        return rewards, logged

    def state_dict(self) -> dict[str, Any]:
        """The coefficient, where it moves."""
        return {} if self._options.target is None else {"kl_coefficient": self.coefficient}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict()`."""
        self.coefficient = float(state["kl_coefficient"])


def discounted(values: Tensor, factor: float) -> Tensor:
    """Sums [N, T] over all later steps, each `factor` less a step: s_t = v_t + factor s_{t+1}."""
    sums = torch.zeros_like(values)
    later = values.new_zeros(len(values))
    for step in reversed(range(values.shape[1])):
        later = values[:, step] + factor * later
        sums[:, step] = later
    return sums


def whitened(values: Tensor, mask: Tensor) -> Tensor:
    """`values` [N, T] at mean 0 and variance 1 (of n - 1) over bool `mask` [N, T], 0 elsewhere.

    Values that are all equal, or a single one, become 0.
    """
    count = int(mask.sum())
    centred = torch.where(mask, values - torch.where(mask, values, 0.0).sum() / max(count, 1), 0.0)
    return centred * (centred.square().sum() / max(count - 1, 1) + _WHITE).rsqrt()
