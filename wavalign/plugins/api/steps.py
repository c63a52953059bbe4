"""What a token-level advantage is given and gives: steps of answers. Letters: N answers, T steps.

A step is a position at which some term that learns from advantages weighs a token; tokens of several streams at one
position are one step, one action of the policy. Positions between two steps are left out, so that step t + 1 is the
next action behind step t, whatever the layout puts between them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class StepInputs:
    """The answers of a step on all ranks, so that what is estimated over them is equal on every one; on the CPU.

    All numbers are float64 and 0 where there is no step.
    """

    rewards: Tensor
    """[N, T]: what was earned from step t on until the next one. Of an answer that has no reward all are 0."""
    mask: Tensor
    """Bool [N, T]: where there are steps, those of an answer from the first on."""
    present: Tensor
    """Bool [N]: answers that have a reward and some step."""
    group: Tensor
    """[N] int64 from 0: answers with one number belong to one prompt."""
    cut: Tensor
    """Bool [N]: answers that the token limit cut off."""
    values: Tensor | None = None
    """[N, T]: V(s_t), what the weights that sampled expected before action t; None unless `needs` has `old_values`."""
    log_ratio: Tensor | None = None
    """[N, T]: log pi_old - log pi_ref of the step's tokens; None unless `needs` has `ref_logprobs`."""


@final
@dataclass(frozen=True, slots=True)
class StepOutput:
    """What every step is worth, in the shape of the inputs."""

    advantages: Tensor
    """[N, T], finite where an answer is valid."""
    returns: Tensor
    """[N, T]: what a value head is to predict."""
    valid: Tensor
    """Bool [N]: answers to learn from; one that is not present cannot be."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Logged as `advantage/NAME`; finite."""
