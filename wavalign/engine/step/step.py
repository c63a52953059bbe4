"""The steps of a stage, one after the other."""

from typing import final

from wavalign.engine.state.timeline import Spans, Timeline
from wavalign.engine.step.executor import Executor
from wavalign.engine.step.metrics import StepResult
from wavalign.engine.step.operators import live_operators
from wavalign.engine.step.stage import LiveStage
from wavalign.engine.step.waiting import Waiting, nobody


@final
class StepExecutor:
    """Executes the graph of one stage, step by step."""

    def __init__(
        self, live: LiveStage, done: int = 0, waiting: Waiting = nobody, timeline: Timeline | None = None
    ) -> None:
        """Go on after `done` steps of the stage; `timeline` takes when its operators run."""
        live.clock.weights_of, live.clock.together = done, False
        self._plan, self._timeline = live.plan, timeline
        self._executor = Executor(live_operators(live), device=live.world.device, waiting=waiting)

    def step(self, index: int) -> StepResult:
        """Run step `index` of the stage and give what is worth logging."""
        spans = Spans()
        result: StepResult = self._executor.run({"step": index}, spans)["result"]
        if self._timeline is not None and self._timeline.wants(index + 1):
            self._timeline.write(spans, stage=self._plan.name, step=self._plan.first_step + index + 1)
        return result
