"""Better than expected: A_t = d_t + gamma lam A_{t+1}, d_t = r_t + gamma V(s_{t+1}) - V(s_t); returns are A + V.

V(s_t) is the value head's word on the state that action t is chosen from, under the weights that sampled. Steps are
the actions themselves: what the layout puts between two of them is no step. Behind the last action V is 0; of an answer
that the token limit cut off, `truncated: bootstrap` takes it as V of the last action's state, the nearest there is.
`kl` is paid at every step before, `whiten` brings A (not the returns) to mean 0 and variance 1 over all steps.
Source: Schulman et al., "High-dimensional continuous control using generalized advantage estimation" (arXiv
1506.02438); as in PPO (arXiv 1707.06347) on language models (arXiv 1909.08593).
"""

from collections.abc import Mapping
from typing import Any, Literal, final

import torch
from pydantic import Field

from wavalign.errors import PluginError
from wavalign.plugins.api import Advantage, StepInputs, StepOutput
from wavalign.plugins.returns import KLInReward, KLPenalty, discounted, whitened
from wavalign.schema.base import Params


@final
class GaeParams(Params):
    """Discounts, divergence, cut answers and scale."""

    gamma: float = Field(default=1.0, ge=0, le=1)
    """What a reward is worth one step earlier."""
    lam: float = Field(default=0.95, ge=0, le=1)
    """How far ahead rewards are trusted rather than values: 1 is the whole return, 0 the next step alone."""
    kl: KLInReward = KLInReward()
    """Divergence from the reference, paid in the reward."""
    truncated: Literal["end", "bootstrap"] = "end"
    """What an answer that was cut off would have earned behind its last step: nothing, or what was expected before it.
    What it is worth at all says `rollout.truncated`."""
    whiten: bool = True
    """Mean 0 and variance 1 over all steps of all answers."""


@final
class Gae(Advantage):
    """Advantages by a critic: the scalar output `values`, which a term with the loss `value` trains."""

    Params = GaeParams
    unit = "token"
    params: GaeParams

    def __init__(self, params: GaeParams) -> None:
        super().__init__(params)
        self._penalty = KLPenalty(params.kl)

    @property
    def needs(self) -> frozenset[str]:
        return self._penalty.needs | {"old_values"}

    @property
    def compares_answers(self) -> bool:
        return False

    def compute_steps(self, inputs: StepInputs) -> StepOutput:
        """Absent answers have no advantage and are in no mean."""
        if inputs.values is None:
            raise PluginError("there are no values to compare with")
        rewards, logged = self._penalty.take(inputs)
        steps = inputs.mask & inputs.present[:, None]
        values = torch.where(inputs.mask, inputs.values, 0.0)
        later = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
        if self.params.truncated == "bootstrap":
            after = inputs.mask & ~torch.cat([inputs.mask[:, 1:], torch.zeros_like(inputs.mask[:, :1])], dim=1)
            later = torch.where(after & inputs.cut[:, None], values, later)
        delta = torch.where(steps, rewards + self.params.gamma * later - values, 0.0)
        advantages = discounted(delta, self.params.gamma * self.params.lam)
        returns = torch.where(steps, advantages + values, 0.0)
        if self.params.whiten:
            advantages = whitened(advantages, steps)
        return StepOutput(torch.where(steps, advantages, 0.0), returns, inputs.present, logged)

    def state_dict(self) -> dict[str, Any]:
        """The coefficient of the divergence, where it adapts."""
        return self._penalty.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict()`."""
        self._penalty.load_state_dict(state)
