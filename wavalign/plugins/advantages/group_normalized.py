"""How much better than its group: A_i = (R_i - mean R) / (std R + eps) over the group's present rewards.

Source: GRPO (arXiv 2402.03300, section 4.1.2). WavAlign's released code takes the population deviation and eps 1e-4;
`std: none` is Dr. GRPO (arXiv 2503.20783), A_i = R_i - mean R.
"""

from typing import Annotated, Literal, final

import torch
from pydantic import Field

from wavalign.plugins.api import Advantage, AdvantageInputs, AdvantageOutput
from wavalign.schema.base import Params


@final
class GroupNormalizedParams(Params):
    """How the spread of a group is measured."""

    std: Literal["population", "sample", "none"] = "population"
    """Divide the squares by n, by n - 1, or do not scale at all."""
    eps: Annotated[float, Field(ge=1e-12, le=1e6)] = 1e-4
    """Added to the deviation, in units of reward; keeps a group without spread at advantage 0."""


@final
class GroupNormalized(Advantage):
    """Rewards relative to their group."""

    Params = GroupNormalizedParams
    params: GroupNormalizedParams

    def compute(self, inputs: AdvantageInputs) -> AdvantageOutput:
        """NaN rewards are absent: from mean, deviation and, being invalid, from the loss and its denominators.

        A single present reward has nothing to be compared with, so its group is invalid too. A group of equal rewards
        is valid with advantage 0.
        """
        rewards = inputs.rewards
        present = ~rewards.isnan()
        count = present.sum(dim=1, keepdim=True)
        valid = present & (count >= 2)
        centred = rewards - torch.where(present, rewards, 0.0).sum(dim=1, keepdim=True) / count.clamp(min=1)
        centred = torch.where(valid, centred, 0.0)
        if self.params.std == "none":
            return AdvantageOutput(centred, valid)
        freedom = count - 1 if self.params.std == "sample" else count
        deviation = (centred.square().sum(dim=1, keepdim=True) / freedom.clamp(min=1)).sqrt()
        return AdvantageOutput(centred / (deviation + self.params.eps), valid)
