"""The values of one step, of one micro-batch, and what a step leaves for the log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from torch import Tensor

from wavalign.engine.step.batches import MicroBatch
from wavalign.engine.step.metrics import StepTotals
from wavalign.engine.step.rewards import Call, Scores
from wavalign.plugins.api import GateReading
from wavalign.plugins.batch import Dialogue, RolloutGroup


@final
@dataclass(slots=True)
class StepState:
    """The values of one step, filled by the nodes as they run."""

    index: int
    """Step within the stage, from 0."""
    prompts: list[Dialogue] = field(default_factory=list)
    demonstrations: list[Dialogue] = field(default_factory=list)
    groups: list[RolloutGroup] = field(default_factory=list)
    calls: dict[str, list[Call]] = field(default_factory=dict)
    scores: Scores | None = None
    advantages: Tensor | None = None
    """[P, G] of this rank."""
    valid: Tensor | None = None
    """Bool [P, G] of this rank."""
    gate: GateReading | None = None
    batches: list[MicroBatch] = field(default_factory=list)
    ref_logprobs: list[Tensor] = field(default_factory=list)
    """Per micro-batch [B, S, T]."""
    denominators: dict[str, Tensor] = field(default_factory=dict)
    grad_norm: float = 0.0
    totals: StepTotals = field(default_factory=StepTotals)
    seconds: dict[str, float] = field(default_factory=dict)


@final
@dataclass(slots=True)
class Pass:
    """The values of one micro-batch."""

    batch: MicroBatch
    number: int
    weights: dict[str, Tensor]
    row_valid: dict[str, Tensor]
    logprobs: Tensor | None = None
    values: dict[str, Tensor] = field(default_factory=dict)
    loss: Tensor | None = None


@final
@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step leaves for the log."""

    metrics: Mapping[str, float]
    groups: Sequence[RolloutGroup]
    scores: Scores | None
    advantages: Tensor | None
    notes: Sequence[str] = ()
    """What a person should hear of it."""
