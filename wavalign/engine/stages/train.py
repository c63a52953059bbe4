"""A `train` stage: steps that optimise the objective, or, with none, a measurement of what it starts from."""

from wavalign.engine.compile.plan import StagePlan
from wavalign.engine.stages.cursor import Clock, Cursor
from wavalign.engine.step.stage import LiveStage
from wavalign.engine.step.step import StepExecutor


def run(stage: StagePlan, cursor: Cursor) -> None:
    """Train, measure, and leave a model for later stages."""
    live = cursor.builder.stage(stage, cursor.start_folder(stage))
    for heading, feed in live.feeds.items():
        if note := feed.note(heading):
            cursor.observer.message(note)
    try:
        done = cursor.clock.begin(live)
        cursor.observer.stage(stage.name, stage.steps)
        if stage.steps:
            _train(live, cursor, done)
            cursor.export(live)
            return
        cursor.clock.measure(live, 0)
        if stage != cursor.plan.stages[-1]:
            cursor.export(live)
        else:
            cursor.complete(stage)  # nobody starts from what it started from
    finally:
        live.close()


def _train(live: LiveStage, cursor: Cursor, done: int) -> None:
    """Steps and evaluations; what ends them early leaves a checkpoint of the last complete step."""
    clock = cursor.clock
    executor = StepExecutor(live, done, cursor.observer.waiting, cursor.timeline)
    clock.starts(live, done)
    try:
        _steps(live, executor, clock, done)
    except BaseException as error:
        clock.rescue(error, live)
        raise
    finally:
        clock.rest()


def _steps(live: LiveStage, executor: StepExecutor, clock: Clock, done: int) -> None:
    if done == 0 and live.plan.stage.evaluation.at_start:
        clock.measure(live, 0)
    clock.goes_on(live, done)
    for index in range(done, live.plan.steps):
        if clock.is_over:
            break
        clock.step_begins()
        clock.step_ends(live, index + 1, executor.step(index))
    clock.ends(live)
