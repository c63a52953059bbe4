"""A stage: its own sections over the recipe's shared ones."""

from collections.abc import Mapping
from typing import Literal, final

from pydantic import Field

from wavalign.schema.base import Section
from wavalign.schema.bounds import MOST_STEPS, Name
from wavalign.schema.data import DataSection
from wavalign.schema.evaluation import EvaluationSection, StopEarly
from wavalign.schema.model import ModelSection
from wavalign.schema.objective import ObjectiveSection
from wavalign.schema.optim import OptimSection
from wavalign.schema.reward import RewardSection
from wavalign.schema.rollout import BatchSection, RolloutSection


class StageSections(Section):
    """The sections a recipe states once for all stages and a stage may state over them.

    Merging happens on the plain tree, before validation: mappings merge, everything else replaces, `!replace` replaces
    a mapping whole. So each stage below is complete.
    """

    model: ModelSection
    """Architecture, weights, codec."""
    data: DataSection = DataSection()
    """Prompts, demonstrations, held-out splits."""
    rollout: RolloutSection = RolloutSection()
    """Sampling."""
    batch: BatchSection = BatchSection()
    """Rows per step."""
    rewards: Mapping[Name, RewardSection] = Field(default_factory=dict)
    """Reward plugins by name."""
    objective: ObjectiveSection | None = None
    """Terms, gate, advantage; a `train` stage needs it."""
    optim: OptimSection = OptimSection()
    """Optimiser."""
    evaluation: EvaluationSection = EvaluationSection()
    """Metrics."""
    steps: int = Field(default=100, ge=0, le=MOST_STEPS)
    """Optimiser steps of a `train` stage; with 0 it measures once and trains nothing."""
    stop_early: StopEarly | None = None
    """End the stage when a measured value has not improved for a while."""


@final
class Stage(StageSections):
    """One stage, complete."""

    name: Name
    """Its name; folders and `start` refer to it."""
    type: Literal["train", "fit_codec"] = "train"
    """`train` optimises the objective; `fit_codec` fits `model.codec` on the sound of `data.demonstrations`."""
    start: str | None = None
    """Name of the earlier stage whose weights (or codec) it starts from; omitted, the stage before, or `model`."""
