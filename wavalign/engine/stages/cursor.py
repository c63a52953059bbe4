"""What a run hands to a stage: who builds its parts, where it starts and writes, and the clock of its steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from wavalign.engine.compile.plan import Plan, StagePlan
from wavalign.engine.feeding.feeds import Feed
from wavalign.engine.stages.answering import Answering
from wavalign.engine.stages.pairing import Pairing
from wavalign.engine.state.distributed import World
from wavalign.engine.state.timeline import Timeline
from wavalign.engine.step.metrics import StepResult
from wavalign.engine.step.stage import LiveStage
from wavalign.plugins.registry import Registry
from wavalign.schema.component import WeightedComponent


class Workshop(Protocol):
    """Constructs what stages are made of."""

    registry: Registry

    def stage(self, stage: StagePlan, start: Path | None) -> LiveStage:
        """A stage that learns or measures."""

    def feed(self, sources: Sequence[WeightedComponent], seed: int) -> Feed:
        """A heading's sources, prepared; every rank calls it."""


class Watcher(Protocol):
    """Tells a person how far a stage is."""

    def stage(self, name: str, steps: int) -> None:
        """A stage begins."""

    def message(self, text: str) -> None:
        """Something is worth one line."""

    def progress(self, what: str, done: int, total: int) -> None:
        """So much of something is done."""

    def waiting(self, what: str, done: int, total: int) -> None:
        """The run is busy with something."""


class Clock(Protocol):
    """Steps of a stage that learns: their logs, measurements and checkpoints, and who asks to stop."""

    def begin(self, live: LiveStage) -> int:
        """The stage begins, or goes on where a checkpoint is of it; gives the steps that it has seen."""

    def starts(self, live: LiveStage, done: int) -> None:
        """The first of the steps that are left comes next."""

    def goes_on(self, live: LiveStage, done: int) -> None:
        """Measure what is due after `done` steps: what followed their checkpoint was cut off."""

    @property
    def is_over(self) -> bool:
        """Whether what is watched says that the stage has gone on long enough."""

    def step_begins(self) -> None:
        """From here on a request to stop waits for the step's end."""

    def step_ends(self, live: LiveStage, step: int, result: StepResult) -> None:
        """Log, checkpoint and measure what is due; raises Interrupted where somebody asked to stop."""

    def ends(self, live: LiveStage) -> None:
        """The last step is done."""

    def measure(self, live: LiveStage, step: int) -> None:
        """Measure the held-out splits."""

    def rescue(self, error: BaseException, live: LiveStage) -> None:
        """Write the checkpoint of the last complete step before `error` ends the run."""

    def rest(self) -> None:
        """No step is under way."""


class Cursor(Protocol):
    """A run, as its stages see it; every rank has one, and all call its methods alike."""

    @property
    def plan(self) -> Plan: ...
    @property
    def world(self) -> World: ...
    @property
    def builder(self) -> Workshop: ...
    @property
    def observer(self) -> Watcher: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def timeline(self) -> Timeline: ...

    def start_folder(self, stage: StagePlan) -> Path | None:
        """Folder of the stage it starts from; None where it starts from what `model` says."""

    def stage_folder(self, stage: StagePlan) -> Path:
        """The stage's own; the first rank makes it."""

    def answering(self, stage: StagePlan) -> Answering:
        """The stage's policy and the prompts it answers."""

    def pairing(self, stage: StagePlan) -> Pairing:
        """The answers that the stage pairs, and what decides."""

    def measure(self, stage: StagePlan) -> None:
        """Measure the held-out splits with what the stage starts from, and log it."""

    def export(self, live: LiveStage) -> None:
        """Leave the stage's model and mark the stage complete."""

    def complete(self, stage: StagePlan, *, reached: int = 0, holds: dict[str, Any] | None = None) -> None:
        """Mark a stage complete: the steps done, and which weights its model holds."""
