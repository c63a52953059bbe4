"""How much better than its group: A_i = (R_i - mean R) / (std R + eps) over the group's present rewards.

Source: GRPO (arXiv 2402.03300, section 4.1.2). WavAlign's released code takes the population deviation and eps 1e-4;
`std: none` is Dr. GRPO (arXiv 2503.20783), A_i = R_i - mean R. `spread: batch` divides by the deviation of all rewards
of the step. `per_reward: true` does this to each reward of its own, and A_i is the mean of what they gave by their
weights; with `whiten: true` that is GDPO (arXiv 2601.05242).
"""

from typing import Literal, final

import torch
from torch import Tensor

from wavalign.plugins.answer_level import AnswerLevelParams, answer_level, group_mean
from wavalign.plugins.api import Advantage, AdvantageInputs, AdvantageOutput


@final
class GroupNormalizedParams(AnswerLevelParams):
    """How the spread is measured, and of what."""

    std: Literal["population", "sample", "none"] = "population"
    """Divide the squares by n, by n - 1, or do not scale at all."""
    spread: Literal["group", "batch"] = "group"
    """Divide by the deviation of the answer's group, or by that of all answers of the step on all processes."""
    per_reward: bool = False
    """Compare each reward within the group before they are added up, so that none with a narrow spread is drowned."""


@final
class GroupNormalized(Advantage):
    """Rewards relative to their group."""

    Params = GroupNormalizedParams
    params: GroupNormalizedParams

    def compute(self, inputs: AdvantageInputs) -> AdvantageOutput:
        """NaN rewards are absent: from mean, deviation and, being invalid, from the loss and its denominators.

        A single present reward has nothing to be compared with, so its group is invalid too. A group of equal rewards
        is valid with advantage 0. Per reward, an answer has the mean of those that can be compared, by their weights.
        """
        if not self.params.per_reward:
            return answer_level(*self._compared(inputs.rewards), self.params)
        total, weight = torch.zeros_like(inputs.rewards), torch.zeros_like(inputs.rewards)
        for name, part in inputs.parts.items():
            values, valid = self._compared(part)
            total += inputs.weights[name] * values
            weight += inputs.weights[name] * valid.double()
        valid = weight > 0
        return answer_level(total / torch.where(valid, weight, 1.0), valid, self.params)

    def _compared(self, rewards: Tensor) -> tuple[Tensor, Tensor]:
        """Relative to their group, and whether there is something to compare with; all [P, G]."""
        present = ~rewards.isnan()
        count = present.sum(dim=1, keepdim=True)
        valid = present & (count >= 2)
        centred = torch.where(valid, rewards - group_mean(rewards, present), 0.0)
        if self.params.std == "none":
            return centred, valid
        if self.params.spread == "batch":
            every = rewards[present]
            squares, count = (every - every.mean()).square().sum(), present.sum()
        else:
            squares = centred.square().sum(dim=1, keepdim=True)
        freedom = count - 1 if self.params.std == "sample" else count
        deviation = (squares / freedom.clamp(min=1)).sqrt()
        return centred / (deviation + self.params.eps), valid
