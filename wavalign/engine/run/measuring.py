"""When a stage is measured, on which rank, and where what was found is written."""

from collections.abc import Mapping
from typing import final

from wavalign.engine.run.checkpointing import RunCheckpoints
from wavalign.engine.run.evaluation import SplitResult
from wavalign.engine.run.observers import Observer
from wavalign.engine.run.rollout_log import RecordMaker, evaluation_line
from wavalign.engine.run.run_log import RunLog
from wavalign.engine.run.stopping import StopSignals
from wavalign.engine.step.stage import LiveStage
from wavalign.errors import RankLostError


@final
class Measuring:
    """The evaluations of a run on one rank; every rank calls every method alike."""

    def __init__(
        self, checkpoints: RunCheckpoints, *, log: RunLog, records: RecordMaker, stop: StopSignals, observer: Observer
    ) -> None:
        self.checkpoints, self.log, self.records, self.stop = checkpoints, log, records, stop
        self.world, self.folder, self.observer = checkpoints.world, checkpoints.folder, observer
        self.together = False
        """Whether every rank meets the error that ends the run."""

    def between(self, live: LiveStage, step: int) -> None:
        """Measure where `evaluation.every` says so; the start and the end have their own word."""
        every = live.plan.stage.evaluation.every
        if every and 0 < step < live.plan.steps and step % every == 0:
            self.evaluate(live, step)

    def evaluate(self, live: LiveStage, step: int) -> None:
        """Measure on the first rank, while the others wait; every rank opens the parameters, and all end alike."""
        complete, values = False, list[float]()
        watches = self.checkpoints.watches
        self.stop.waits = not self.world.is_first  # the first may stop at once, and the others then hear of it
        try:
            with live.backend.full_parameters():
                if self.world.is_first and live.evaluator.metrics:
                    measured = self._measure(live, step)
                    values = watches.pick(measured) if watches is not None else []
            complete = True
        finally:
            ends = self.world.gather([complete, self.stop.asked, values])
            self.together = not all(end[0] for end in ends) or any(end[1] for end in ends)
        self.stop.waits = False
        if self.together:
            self.stop.asked = self.stop.asked or max(end[1] for end in ends)
            if self.stop.asked:
                raise self.stop.interrupted()
            raise RankLostError(
                "another process of this run stopped while the first one measured",
                hint="the log of the process that stopped first says why",
            )
        if watches is not None and ends[0][2] and watches.see(ends[0][2], step):
            self.checkpoints.keep_best()

    def _measure(self, live: LiveStage, step: int) -> dict[str, Mapping[str, float]]:
        """Values by split, told to everybody."""
        number = live.plan.first_step + step
        measured: dict[str, Mapping[str, float]] = {}
        when = "start" if step == 0 else "end" if step == live.plan.steps else "middle"
        for result in live.evaluator.run(live.backend.policy, self.observer.progress, self.observer.waiting):
            self._log(live.plan.name, number, result)
            self.observer.evaluation(result.split, result.values, when)
            measured[result.split] = result.values
        return measured

    def _log(self, stage: str, step: int, result: SplitResult) -> None:
        split = result.split
        self.log.metrics(result.values, stage=stage, step=step, split=split)
        self.log.outcomes(evaluation_line(item, stage=stage, step=step, split=split) for item in result.items)
        self.log.rollouts(self.records.sample(item, stage=stage, step=step, split=split) for item in result.samples)
        self.folder.add_measures(result.measures)
