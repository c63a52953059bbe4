"""A stage: its own sections over the recipe's shared ones; and stages that are repeated in rounds."""

from collections.abc import Mapping
from typing import Any, Literal, final

from pydantic import Field, model_validator

from wavalign.schema.base import Section
from wavalign.schema.bounds import MOST_ROUNDS, MOST_ROWS, MOST_STEPS, Name, StageName
from wavalign.schema.data import DataSection
from wavalign.schema.evaluation import EvaluationSection, StopEarly, StopRounds
from wavalign.schema.model import ModelSection
from wavalign.schema.objective import ObjectiveSection
from wavalign.schema.optim import OptimSection
from wavalign.schema.pairs import GoldenPairs, PairsSection
from wavalign.schema.reward import RewardSection
from wavalign.schema.rollout import BatchSection, RolloutSection
from wavalign.schema.stage_kinds import KINDS

PREFERENCE: Mapping[str, Any] = {"terms": {"preference": {"loss": {"type": "bradley_terry"}}}}
"""The objective of a `reward_model` stage that states none."""


@final
class GenerateSection(Section):
    """What a `generate` stage answers; how is said by `rollout`."""

    limit: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    """At most so many prompts, spread evenly over `data.prompts`; null answers each once."""
    chunk: int = Field(default=16, ge=1, le=MOST_ROWS)
    """Prompts answered together on one process; after each chunk the answers are safe on the disk."""


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
    """Terms, gate, advantage; a `train` stage needs it, a `reward_model` stage has one term `bradley_terry` without."""
    optim: OptimSection = OptimSection()
    """Optimiser."""
    evaluation: EvaluationSection = EvaluationSection()
    """Metrics."""
    generate: GenerateSection = GenerateSection()
    """How much a `generate` stage writes."""
    pairs: PairsSection = GoldenPairs()
    """What a `pairs` stage makes of `data.samples`."""
    steps: int = Field(default=100, ge=0, le=MOST_STEPS)
    """Optimiser steps of a `train` stage; with 0 it measures once and trains nothing."""
    stop_early: StopEarly | None = None
    """End the stage when a measured value has not improved for a while."""


@final
class Round(Section):
    """Which round of which repetition a stage belongs to."""

    repeat: Name
    """Name of the repetition."""
    number: int = Field(ge=1, le=MOST_ROUNDS)
    """From 1."""
    of: int = Field(ge=1, le=MOST_ROUNDS)
    """Rounds at most."""
    stop_early: StopRounds | None = None
    """When the rounds end early."""


@final
class Stage(StageSections):
    """One stage, complete."""

    name: StageName
    """Its name; folders, `start` and data sources refer to it."""
    type: Literal["train", "fit_codec", "generate", "pairs", "reward_model", "evaluate"] = "train"
    """`train` optimises the objective; `fit_codec` fits `model.codec` on the sound of `data.demonstrations`; `generate`
    writes the policy's answers to `data.prompts` as a data set that later stages read; `pairs` makes a data set of
    preferences, or of the best answers, of those in `data.samples`;
    `reward_model` learns which of two answers is preferred, for rewards that name it; `evaluate` measures
    `data.evaluation` with `evaluation.metrics` and leaves nothing to start from."""
    start: str | None = None
    """Name of the earlier stage whose weights (or codec) it starts from; omitted, the last one before that left any, or
    `model`. Within a `repeat` a stage of the same round; from outside `REPEAT.STAGE`, that of the best or last round.
    """
    round: Round | None = None
    """Set by `repeat`: the round that the stage belongs to."""

    @model_validator(mode="before")
    @classmethod
    def _preference(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("type") == "reward_model" and value.get("objective") is None:
            return {**value, "objective": PREFERENCE}
        return value

    @property
    def measures(self) -> bool:
        """Whether anything is measured on its held-out splits."""
        kind = KINDS[self.type]
        return kind.measures and (kind.pairs or bool(self.evaluation.metrics))

    @property
    def choosing(self) -> tuple[str, ...]:
        """Names of the rewards that say which of several held-out answers is measured; none where one is drawn."""
        best = self.evaluation.best_of
        if best is None or not self.measures or KINDS[self.type].pairs:
            return ()
        if best.reward is None:
            return tuple(self.rewards)
        return (best.reward, *(name for name, each in self.rewards.items() if each.guard and name != best.reward))


@final
class Repeat(Section):
    """Stages that are done several times over, in rounds: `round-1.sample`, `round-1.train`, `round-2.sample`, ..."""

    repeat: int = Field(ge=1, le=MOST_ROUNDS)
    """Rounds."""
    name: Name = "round"
    """Name of the rounds: it stands with the round's number before the names of their stages."""
    stop_early: StopRounds | None = None
    """End the rounds when a measured value has not improved; what follows starts from the best round."""
