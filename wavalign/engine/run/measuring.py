"""When a stage is measured, how its ranks come together for it, and where what was found is written."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, final

from wavalign.engine.compile.plan import StagePlan
from wavalign.engine.report.drift import Drift
from wavalign.engine.report.training import DRIFT
from wavalign.engine.run.checkpointing import RunCheckpoints
from wavalign.engine.run.drifting import DriftWatch, SinceStart
from wavalign.engine.run.evaluation import Measurer, SplitResult
from wavalign.engine.run.observers import Observer
from wavalign.engine.run.rollout_log import RecordMaker, evaluation_line
from wavalign.engine.run.run_log import RunLog
from wavalign.engine.run.shares import Ranks
from wavalign.engine.run.stopping import StopSignals
from wavalign.engine.run.watching import Watches
from wavalign.engine.state.distributed import World
from wavalign.engine.step.stage import LiveStage
from wavalign.errors import RankLostError
from wavalign.plugins.api import Policy


@final
class Meetings:
    """Where the ranks of one evaluation come together. In between each works by itself, and a signal stops it at once.

    One that fails or was asked to stop says so at the meeting it would have come to next, and all end there alike.
    """

    def __init__(self, world: World, stop: StopSignals) -> None:
        self._world, self._stop = world, stop
        self.rank, self.size = world.rank, world.size
        self.over = False
        """Whether a rank said at a meeting that it goes no further."""
        self.broken = False
        """Whether a meeting was left before its end: there can be no other."""

    def meet(self, complete: bool, values: Sequence[float] = ()) -> list[float]:
        """Learn whether all are `complete` so far; gives the first rank's `values`. Signals wait from here on."""
        self._stop.waits, self.broken = True, True
        ends = self._world.gather([complete, self._stop.asked, list(values)])
        self.broken = False
        self.over = not all(end[0] for end in ends) or any(end[1] for end in ends)
        self._stop.asked = self._stop.asked or max(end[1] for end in ends)
        return list(map(float, ends[0][2]))

    def to_first(self, data: bytes) -> Sequence[Any] | None:
        """`data` of every rank, in order, on the first one; None on the others."""
        self.meet(True)
        self.go_on()
        self._stop.waits, self.broken = True, True
        found = self._world.to_first(data)
        self.broken = False
        self.go_on()
        return found

    def go_on(self) -> None:
        """Signals stop this rank at once again; raises what ends it where one came meanwhile, or a rank is over."""
        self._stop.waits = False
        if self._stop.asked:
            raise self._stop.interrupted()
        if self.over:
            raise RankLostError(
                "another process of this run stopped during an evaluation",
                hint="the log of the process that stopped first says why",
            )


@final
@dataclass(frozen=True, slots=True)
class Subject:
    """Who is measured, in which stage."""

    stage: StagePlan
    policy: Policy
    evaluator: Measurer
    opened: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Inside, the policy's parameters are whole on every rank."""


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
        self._evaluator: Measurer | None = None
        self._drift: DriftWatch | None = None
        self._since: SinceStart | None = None

    def begin(self, live: LiveStage, evaluator: Measurer, independent: Collection[str] = ()) -> None:
        """A stage begins; `evaluator` is freed with it. `independent` metrics have another instrument than rewards."""
        self._evaluator = evaluator
        self._drift = DriftWatch(live.plan, independent, self.folder) if self.world.is_first else None
        live.closing.append(evaluator.close)

    def learned(self, step: int, values: Mapping[str, float]) -> None:
        """Take a training step's metrics."""
        if self._drift is not None:
            self._drift.step(step, values)

    def between(self, live: LiveStage, step: int) -> None:
        """Measure where `evaluation.every` says so; the start and the end have their own word."""
        every = live.plan.stage.evaluation.every
        if every and 0 < step < live.plan.steps and step % every == 0:
            self.evaluate(live, step)

    def evaluate(self, live: LiveStage, step: int) -> None:
        """Measure a stage that learns after `step` steps; the best weights so far are kept where a value is watched."""
        assert self._evaluator is not None  # the stage has begun
        backend, watches = live.backend, self.checkpoints.watches
        subject = Subject(live.plan, backend.policy, self._evaluator, backend.full_parameters)
        values = self._together(subject, step, watches)
        if watches is not None and values and watches.see(values, step):
            self.checkpoints.keep_best()

    def measure(self, stage: StagePlan, policy: Policy, evaluator: Measurer) -> None:
        """Measure `policy`, which is whole on every rank, in a stage that does nothing else."""
        self._together(Subject(stage, policy, evaluator), 0, None)

    def _together(self, subject: Subject, step: int, watches: Watches | None) -> list[float]:
        """Every rank opens the parameters and answers its share, the first measures all; gives the watched values."""
        complete, values = False, list[float]()
        meetings = Meetings(self.world, self.stop)
        self.stop.waits = True  # the parameters are opened together
        try:
            with subject.opened():
                meetings.go_on()
                measured = self._measure(subject, step, meetings)
                if self.world.is_first and measured and watches is not None:
                    values = watches.pick(measured)
            complete = True
        finally:
            self.stop.waits = True
            if not meetings.over and not meetings.broken:
                values = meetings.meet(complete, values)
            self.together = meetings.over
        meetings.go_on()
        return values

    def _measure(self, subject: Subject, step: int, ranks: Ranks) -> dict[str, Mapping[str, float]]:
        """Values by split on the first rank, which writes and tells them; none on the others."""
        stage = subject.stage
        number = stage.first_step + step
        measured: dict[str, Mapping[str, float]] = {}
        when = "start" if step == 0 else "end" if step == stage.steps else "middle"
        seen = (self.observer.progress, self.observer.waiting)
        for result in subject.evaluator.run(subject.policy, *seen, ranks=ranks):
            since = self._start()  # before the files hold this measurement, too
            found = self._drift.see(result, number) if self._drift is not None else []
            self._log(stage.name, number, result, found)
            self.observer.evaluation(result.label, result.values, when)
            if (changed := since.see(result, stage.name, number)) is not None:
                self.observer.changed(result.label, changed)
            self.observer.alarm(result.label, [str(each) for each in found])
            measured[result.split] = result.values
        return measured

    def _start(self) -> SinceStart:
        """What the run's measurements are held against; made when the log is open."""
        if self._since is None:
            self._since = SinceStart(self.checkpoints.plan, self.folder)
        return self._since

    def _log(self, stage: str, step: int, result: SplitResult, found: Sequence[Drift]) -> None:
        split = result.label
        changes = {f"{DRIFT}{each.name}": each.after - each.before for each in found}
        self.log.metrics({**result.values, **changes}, stage=stage, step=step, split=split)
        self.log.outcomes(evaluation_line(item, stage=stage, step=step, split=split) for item in result.items)
        self.log.outcomes(
            {"stage": stage, "step": step, "split": split, "item": place, "dialogue": name, "values": dict(values)}
            for place, (name, values) in enumerate(result.pairs)
        )
        self.log.rollouts(self.records.sample(item, stage=stage, step=step, split=split) for item in result.samples)
        self.folder.add_measures(result.measures)
