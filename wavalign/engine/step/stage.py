"""A stage's live objects, made by `builder.py` and used by the trainer and the executor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from wavalign.engine.backends.base import Backend
from wavalign.engine.compile.plan import StagePlan, TermPlan
from wavalign.engine.contracts.origins import close_all
from wavalign.engine.feeding.feeds import Feed
from wavalign.engine.models.reference import Reference
from wavalign.engine.run.evaluation import Evaluator
from wavalign.engine.state.distributed import World
from wavalign.engine.step.dead_signal import SignalWatch
from wavalign.engine.step.objective import TermSpec
from wavalign.engine.step.rewards import RewardPool
from wavalign.engine.step.rollouts import Roller
from wavalign.plugins.api import Advantage, Architecture, Gate, Loss, Mask
from wavalign.schema.runtime import RuntimeSection


@final
@dataclass(frozen=True, slots=True)
class LiveTerm:
    """A term with its loss and mask."""

    plan: TermPlan
    spec: TermSpec
    loss: Loss
    mask: Mask


@final
@dataclass(frozen=True, slots=True)
class LiveStage:
    """Everything a stage's steps touch."""

    plan: StagePlan
    runtime: RuntimeSection
    seed: int
    world: World
    architecture: Architecture
    backend: Backend
    reference: Reference | None
    roller: Roller
    feeds: Mapping[str, Feed]
    """By heading: `prompts`, `demonstrations`."""
    rewards: RewardPool
    advantage: Advantage | None
    gate: Gate | None
    terms: Sequence[LiveTerm]
    evaluator: Evaluator
    signal: SignalWatch

    def close(self) -> None:
        """Free threads, processes and files."""
        close_all((self.rewards.close, self.evaluator.close, self.backend.close))
