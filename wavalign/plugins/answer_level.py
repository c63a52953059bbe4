"""What answer-level advantages share: what they have in common in a recipe, and the scale of a whole step.

Letters: P prompts, G group.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from wavalign.plugins.api import AdvantageOutput
from wavalign.schema.base import Params


class AnswerLevelParams(Params):
    """Options of every advantage of whole answers."""

    whiten: bool = False
    """Bring advantages to mean 0 and deviation 1 (of n - 1) over all answers of the step, on all processes."""
    eps: Annotated[float, Field(ge=1e-12, le=1e6)] = 1e-4
    """Added to a deviation before it is divided by, in its own unit; keeps what does not vary at advantage 0."""


def answer_level(values: Tensor, valid: Tensor, params: AnswerLevelParams) -> AdvantageOutput:
    """Advantages `values` [P, G] where `valid` bool [P, G], at the scale that the recipe asks for."""
    values = torch.where(valid, values, 0.0)
    if not params.whiten:
        return AdvantageOutput(values, valid)
    count = int(valid.sum())
    centred = torch.where(valid, values - values.sum() / max(count, 1), 0.0)
    deviation = (centred.square().sum() / max(count - 1, 1)).sqrt()
    return AdvantageOutput(centred / (deviation + params.eps), valid)


def group_mean(values: Tensor, present: Tensor) -> Tensor:
    """Means [P, 1] of each group's `values` [P, G] where `present` bool [P, G]; 0 where none is."""
    count = present.sum(dim=1, keepdim=True)
    return torch.where(present, values, 0.0).sum(dim=1, keepdim=True) / count.clamp(min=1)


def mean_of(rewards: Tensor) -> float | None:
    """Mean of the present `rewards` [P, G] of a step; None where all are absent."""
    present = rewards[~rewards.isnan()]
    return float(present.mean()) if len(present) else None
