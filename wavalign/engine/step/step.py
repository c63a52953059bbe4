"""The steps of a stage, one after the other."""

from typing import final

from wavalign.engine.state.timeline import Spans, Timeline
from wavalign.engine.step.executor import Executor
from wavalign.engine.step.metrics import StepResult
from wavalign.engine.step.operators import live_operators
from wavalign.engine.step.stage import LiveStage
from wavalign.engine.step.waiting import Waiting, nobody
from wavalign.errors import PluginError
from wavalign.plugins.guard import is_out_of_memory


@final
class StepExecutor:
    """Executes the graph of one stage, step by step."""

    def __init__(
        self, live: LiveStage, done: int = 0, waiting: Waiting = nobody, timeline: Timeline | None = None
    ) -> None:
        """Go on after `done` steps of the stage; `timeline` takes when its operators run."""
        live.clock.weights_of, live.clock.together = done, False
        self._plan, self._timeline, self._memory = live.plan, timeline, live.memory
        self._device = live.world.device
        self._executor = Executor(live_operators(live), device=live.world.device, waiting=waiting)

    def step(self, index: int) -> StepResult:
        """Run step `index` of the stage and give what is worth logging."""
        spans = Spans()
        try:
            result: StepResult = self._executor.run({"step": index}, spans)["result"]
        except (RuntimeError, MemoryError, PluginError) as error:
            if not (self._memory.is_inside and is_out_of_memory(error)):
                raise
            where = error.message if isinstance(error, PluginError) else ""
            raise self._memory.exhausted(index, stage=self._plan.name, device=self._device, where=where) from error
        if self._timeline is not None and self._timeline.wants(index + 1):
            self._timeline.write(spans, stage=self._plan.name, step=self._plan.first_step + index + 1)
        return result
