"""The steps of a stage in time: what is logged, measured and kept after each, and when they end."""

import math
from functools import partial
from typing import final

from wavalign.engine.compile.instruments import independent_metrics
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.checkpointing import RunCheckpoints
from wavalign.engine.run.measuring import Measuring
from wavalign.engine.run.observers import Observer
from wavalign.engine.run.pair_evaluation import held_out
from wavalign.engine.run.rollout_log import RecordMaker
from wavalign.engine.run.run_log import RunLog
from wavalign.engine.run.skipped import SkippedUpdates
from wavalign.engine.run.stopping import StopSignals
from wavalign.engine.state.checkpoint import Checkpoint
from wavalign.engine.step.metrics import StepResult
from wavalign.engine.step.stage import LiveStage


@final
class StepClock:
    """The clock of the stages that learn, on one rank; every rank calls every method alike."""

    def __init__(
        self, builder: Builder, measuring: Measuring, *, log: RunLog, records: RecordMaker, observer: Observer
    ) -> None:
        self.builder, self.measuring = builder, measuring
        self.log, self.records, self.observer = log, records, observer
        self.checkpoints: RunCheckpoints = measuring.checkpoints
        self.stop: StopSignals = measuring.stop
        self.plan, self.world = self.checkpoints.plan, self.checkpoints.world
        self.skipped = SkippedUpdates(self.plan, self.checkpoints.folder, self.world)
        self.resumed: Checkpoint | None = None
        """What the run goes on from."""

    def begin(self, live: LiveStage) -> int:
        """Give the steps that the stage has seen, those of its checkpoint where the run goes on from one of it."""
        stage, checkpoint = live.plan, self.resumed
        self.measuring.begin(live, held_out(self.builder, live), independent_metrics(stage, self.builder.registry))
        self.checkpoints.begin(stage)
        if checkpoint is None or checkpoint.step < stage.first_step or checkpoint.meta["stage"] != stage.name:
            return 0
        return self.checkpoints.restore(live, checkpoint)

    def starts(self, live: LiveStage, done: int) -> None:
        """Remember the moment before the first step."""
        live.clock.before_update = partial(self.checkpoints.meet, live)
        live.clock.skipped = partial(self.skipped.keep, live)
        self.checkpoints.take(live, done)

    def goes_on(self, live: LiveStage, done: int) -> None:
        """Measure again what followed the checkpoint and was cut off."""
        self.measuring.between(live, done)

    @property
    def is_over(self) -> bool:
        """Whether patience is at its end."""
        watches = self.checkpoints.watches
        return watches is not None and watches.is_over

    def step_begins(self) -> None:
        """Let a signal wait for the step's end."""
        self.stop.waits = True

    def step_ends(self, live: LiveStage, step: int, result: StepResult) -> None:
        """Log the step, write a checkpoint and measure where that is due; raises Interrupted once somebody asked."""
        self.log_step(live, step, result)
        self.checkpoints.take(live, step)
        failed = self.checkpoints.writer.failed
        stop = self.world.any_true(self.stop.asked != 0 or failed)
        self.stop.in_time()
        if stop:
            self.checkpoints.writer.settle(copied=False)
        every = self.plan.runtime.checkpoint_every
        if stop or step == live.plan.steps or (every and step % every == 0):
            self.observer.waiting("writing a checkpoint", 0, 0)
            written = self.checkpoints.save(now=stop or step == live.plan.steps)
            if stop:
                raise self.stop.interrupted(str(written))
        self.stop.waits = False
        self.measuring.between(live, step)

    def ends(self, live: LiveStage) -> None:
        """Keep and measure the end, where the stage came to it."""
        stage = live.plan
        if self.world.any_true(self.stop.asked != 0):  # it came while the last checkpoint was written
            raise self.stop.interrupted()
        if self.checkpoints.reached < stage.steps:
            self.checkpoints.save(now=True)
            self.observer.message(f"stage {stage.name} ends early, after {self.checkpoints.reached} steps")
        elif stage.stage.evaluation.at_end:
            self.measure(live, stage.steps)

    def measure(self, live: LiveStage, step: int) -> None:
        """Measure the held-out splits."""
        self.measuring.evaluate(live, step)

    def rescue(self, error: BaseException, live: LiveStage) -> None:
        """Write the checkpoint of the last complete step before `error` ends the run."""
        self.stop.waits = True
        self.stop.in_time()
        say, clock = self.observer.message, live.clock
        together = clock.together or self.measuring.together
        self.checkpoints.rescue(error, weights_of=clock.weights_of, together=together, say=say)

    def rest(self) -> None:
        """Let signals stop the run at once."""
        self.stop.waits = False

    def log_step(self, live: LiveStage, step: int, result: StepResult) -> None:
        """Write a step's lines and tell who watches."""
        number = live.plan.first_step + step
        self.log.metrics(result.metrics, stage=live.plan.name, step=number, split="train")
        every = self.plan.runtime.log_rollouts_every
        if self.log.is_open and result.groups and every and (step == 1 or step % every == 0):
            self.log.rollouts(
                self.records.lines(
                    result.groups,
                    stage=live.plan.name,
                    step=number,
                    split="train",
                    scores=result.scores,
                    advantages=result.advantages,
                )
            )
        self.measuring.learned(number, result.metrics)
        self.observer.step(result.metrics, step)
        for note in result.notes:
            self.observer.message(f"step {step}: {note}")
        if result.groups:
            group = result.groups[0]
            reward = float(result.scores.total[0, 0]) if result.scores is not None else math.nan
            question = next((turn.text for turn in group.dialogue.messages if turn.role == "user"), "")
            self.observer.rollout(question, group.rollouts[0].answer.text, None if math.isnan(reward) else reward)
