"""What is still to be earned: A_t = G_t - b, with G_t = r_t + gamma G_{t+1} over the steps of an answer.

`baseline: group` takes b as the mean of the group's G_0, one number for all its steps; `step` as the mean of the
group's G_t at the same step, an answer that is over counting 0. `kl` is paid at every step before: r_t - c KL_t.
`whiten` brings A to mean 0 and variance 1 over all steps of the batch, on all processes.
Sources: REINFORCE with return-to-go (Williams 1992); with `kl` and `whiten` REINFORCE++ (arXiv 2501.03262).
"""

from collections.abc import Mapping
from typing import Any, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from wavalign.plugins.api import Advantage, StepInputs, StepOutput
from wavalign.plugins.returns import KLInReward, KLPenalty, discounted, whitened
from wavalign.schema.base import Params


@final
class ReturnToGoParams(Params):
    """Discount, divergence, baseline and scale."""

    gamma: float = Field(default=1.0, ge=0, le=1)
    """What a reward is worth one step earlier."""
    kl: KLInReward = KLInReward()
    """Divergence from the reference, paid in the reward."""
    baseline: Literal["none", "group", "step"] = "none"
    """Compare with nothing, with the group's whole returns, or with the group's returns from the same step on."""
    whiten: bool = False
    """Mean 0 and variance 1 over all steps of all answers."""


@final
class ReturnToGo(Advantage):
    """Advantages from rewards of single tokens, without a critic."""

    Params = ReturnToGoParams
    unit = "token"
    params: ReturnToGoParams

    def __init__(self, params: ReturnToGoParams) -> None:
        super().__init__(params)
        self._penalty = KLPenalty(params.kl)

    @property
    def needs(self) -> frozenset[str]:
        return self._penalty.needs

    @property
    def compares_answers(self) -> bool:
        return self.params.baseline != "none"

    def compute_steps(self, inputs: StepInputs) -> StepOutput:
        """Absent answers are in no mean; with a baseline an answer that is alone in its group is invalid."""
        rewards, logged = self._penalty.take(inputs)
        returns, valid = discounted(rewards, self.params.gamma), inputs.present
        advantages = returns
        if self.params.baseline != "none":
            groups = int(inputs.group.max()) + 1
            count = torch.zeros(groups, dtype=torch.float64).index_add(0, inputs.group, valid.double())
            valid = valid & (count[inputs.group] >= 2)
            whole = returns if self.params.baseline == "step" else returns[:, :1]
            advantages = returns - _means(whole, inputs.group, count)
        steps = inputs.mask & valid[:, None]
        if self.params.whiten:
            advantages = whitened(advantages, steps)
        return StepOutput(torch.where(steps, advantages, 0.0), torch.where(steps, returns, 0.0), valid, logged)

    def state_dict(self) -> dict[str, Any]:
        """The coefficient of the divergence, where it adapts."""
        return self._penalty.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict()`."""
        self._penalty.load_state_dict(state)


def _means(values: Tensor, group: Tensor, count: Tensor) -> Tensor:
    """Of `values` [N, T'], 0 of absent answers, the mean over each group: `count` [groups] are present."""
    sums = values.new_zeros((len(count), values.shape[1])).index_add(0, group, values)
    return (sums / count.clamp(min=1)[:, None])[group]
