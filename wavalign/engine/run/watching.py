"""Best checkpoint and early stopping: measured values that a stage watches."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, final

from wavalign.engine.compile.checks import watch_problem
from wavalign.engine.compile.plan import StagePlan
from wavalign.engine.state.checkpoint import Checkpoint
from wavalign.errors import PreflightError
from wavalign.schema.evaluation import StopEarly, Watched
from wavalign.schema.runtime import RuntimeSection

_BESIDE = ("/low", "/high", "/count", "/ceiling", "/ceiling_low", "/ceiling_high", "_seconds")
"""Endings of what stands beside a value."""


@final
class Watch:
    """The best of a value so far; equal on every rank, and in every checkpoint."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self.best: float | None = None
        self.step = 0
        """Steps of the stage after which it was the best."""
        self.since = 0
        """Measurements since then."""

    def pick(self, measured: Mapping[str, Mapping[str, float]]) -> float:
        """The value among what was measured, by split; raises PreflightError where it is not there."""
        split, name = self.watched.metric.split("/", 1)
        if name not in measured.get(split, {}):
            known = ", ".join(key for key in measured.get(split, {}) if not key.endswith(_BESIDE))
            raise PreflightError(
                f"`{self.watched.metric}` is watched and was not measured",
                hint=f"on {split} were measured: {known or 'no values'}",
            )
        return float(measured[split][name])

    def see(self, value: float, step: int) -> bool:
        """Take a value; gives whether it is the best so far. One that is no number never is."""
        delta = self.watched.min_delta if isinstance(self.watched, StopEarly) else 0.0
        gain = math.inf if self.best is None else (value - self.best) * (1 if self.watched.mode == "max" else -1)
        if math.isfinite(value) and gain > delta:
            self.best, self.step, self.since = value, step, 0
            return True
        self.since += 1
        return False

    @property
    def is_over(self) -> bool:
        """Whether patience is at its end."""
        return isinstance(self.watched, StopEarly) and self.since >= self.watched.patience

    def state_dict(self) -> dict[str, Any]:
        """What it remembers."""
        return {"best": self.best, "step": self.step, "since": self.since}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember it again."""
        self.best, self.step, self.since = state["best"], int(state["step"]), int(state["since"])


@final
class Watches:
    """What a stage watches."""

    def __init__(self, stage: StagePlan, runtime: RuntimeSection) -> None:
        wanted = runtime.keep_best
        self.best = Watch(wanted) if wanted is not None and not watch_problem(wanted, stage.stage) else None
        self.stop = Watch(stage.stage.stop_early) if stage.stage.stop_early is not None else None

    def pick(self, measured: Mapping[str, Mapping[str, float]]) -> list[float]:
        """The watched values, in a fixed order; raises PreflightError where one was not measured."""
        return [watch.pick(measured) for watch in (self.best, self.stop) if watch is not None]

    def see(self, values: Sequence[float], step: int) -> bool:
        """Take what `pick` gave after `step` steps; gives whether they left the best weights so far.

        What a stage starts from is no candidate.
        """
        left = list(values)
        improved = bool(self.best is not None and self.best.see(left.pop(0), step)) if step else False
        if self.best is not None and not step:
            left.pop(0)
        if self.stop is not None:
            self.stop.see(left.pop(0), step)
        return improved

    @property
    def is_over(self) -> bool:
        """Whether the stage has gone on long enough."""
        return self.stop is not None and self.stop.is_over

    def state_dict(self) -> dict[str, Any]:
        """What the watches remember."""
        named = {"best": self.best, "stop": self.stop}
        return {name: watch.state_dict() for name, watch in named.items() if watch is not None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember it again."""
        for name, watch in (("best", self.best), ("stop", self.stop)):
            if watch is not None:
                watch.load_state_dict(state[name])


def best_step(checkpoint: Checkpoint) -> int | None:
    """Step of the run whose weights were the best of the stage so far, None where `keep_best` watches none."""
    step = int(checkpoint.meta["watches"].get("best", {}).get("step", 0))
    return checkpoint.step - int(checkpoint.meta["stage_step"]) + step if step else None
