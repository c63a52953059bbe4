"""Plugins that fail on one process of several, for tests of what the others then do."""

import itertools
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

from wavalign.errors import RewardStopped
from wavalign.plugins.api import Advantage, AdvantageInputs, AdvantageOutput, Measurement, Metric, Process, Reward
from wavalign.plugins.batch import Dialogue, Rollout, RolloutGroup, Scored
from wavalign.schema.base import Params


class SidedParams(Params):
    """Where and when to fail."""

    rank: int = 1
    """The process."""
    after: int = 0
    """Calls that still go well; -1 lets the constructor fail."""


class Sided:
    """Counts its calls."""

    params: Any

    def _trip(self) -> None:
        if int(os.environ.get("RANK", "0")) == self.params.rank and next(self._calls) > self.params.after:
            raise RuntimeError("only here")

    def _construct(self) -> None:
        self._calls = itertools.count(1)
        if self.params.after < 0:
            self._trip()


@final
class SidedReward(Reward, Sided):
    """1 for every answer."""

    type = "sided_reward"
    Params = SidedParams
    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __init__(self, params: SidedParams) -> None:
        super().__init__(params)
        self._construct()

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        """Raise after so many answers."""
        self._trip()
        return Scored(float(len(rollout.answer.text) % 2))


@final
class SidedSpender(Reward, Sided):
    """Counts what it is asked, on threads of its own, and cannot go on after so many answers."""

    type = "sided_spender"
    Params = SidedParams
    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    concurrency = 3
    counts = ("asked", "euros")

    def __init__(self, params: SidedParams) -> None:
        super().__init__(params)
        self._construct()
        self._asked, self._lock, self.total = 0, threading.Lock(), 0.0

    def join(self, process: Process) -> None:
        """Leave a mark where files of its own may be."""
        assert process.folder is not None and process.timeout == 60
        process.folder.mkdir(parents=True, exist_ok=True)
        (process.folder / f"{process.rank} of {process.processes}").touch()

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        """Stop after so many answers."""
        try:
            self._trip()
        except RuntimeError:
            raise RewardStopped("the money is spent", hint="earn some") from None
        with self._lock:
            self._asked += 1
        return Scored(float(len(rollout.answer.text) % 2))

    def tally(self) -> dict[str, float]:
        """What was asked since the last time, half a euro each."""
        with self._lock:
            asked, self._asked = self._asked, 0
        return {"asked": float(asked), "euros": asked / 2}

    def settle(self, totals: Mapping[str, float]) -> None:
        """Add what all processes have spent."""
        self.total += totals["euros"]

    def state_dict(self) -> dict[str, Any]:
        """What was spent."""
        return {"euros": self.total}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it."""
        self.total = state["euros"]


@final
class SidedMetric(Metric, Sided):
    """A constant."""

    type = "sided_metric"
    Params = SidedParams
    needs: ClassVar[frozenset[str]] = frozenset({"text"})

    def __init__(self, params: SidedParams) -> None:
        super().__init__(params)
        self._construct()

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        """Raise after so many measurements."""
        self._trip()
        return [Measurement("sided", 0.5, 0.5, 0.5, len(groups))]


class ObserverParams(SidedParams):
    """Also how to fail."""

    signal: int = 0
    """Sent to this process instead of an exception."""


@final
class SidedObserver(Metric, Sided):
    """Length of the answers, of which each process looks at its share."""

    type = "sided_observer"
    Params = ObserverParams
    needs: ClassVar[frozenset[str]] = frozenset({"text"})

    def __init__(self, params: ObserverParams) -> None:
        super().__init__(params)
        self._construct()

    def observe(self, groups: Sequence[RolloutGroup]) -> list[dict[str, int]]:
        """Raise, or be told to stop, after so many looks."""
        try:
            self._trip()
        except RuntimeError:
            if not self.params.signal:
                raise
            os.kill(os.getpid(), self.params.signal)
        return [{"length": len(each.rollouts[0].answer.text)} for each in groups]

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        """Never called: what `observe` found is enough."""
        raise AssertionError

    def conclude(self, groups: Sequence[RolloutGroup], observed: Sequence[dict[str, int]]) -> list[Measurement]:
        """The mean of what was found; every answer must have what belongs to it."""
        assert [each["length"] for each in observed] == [len(each.rollouts[0].answer.text) for each in groups]
        lengths = tuple(float(each["length"]) for each in observed)
        value = sum(lengths) / len(lengths)
        return [Measurement("length", value, value, value, len(groups), items=lengths)]


@final
class SidedAdvantage(Advantage, Sided):
    """The reward itself."""

    type = "sided_advantage"
    Params = SidedParams

    def __init__(self, params: SidedParams) -> None:
        super().__init__(params)
        self._construct()

    def compute(self, inputs: AdvantageInputs) -> AdvantageOutput:
        """Raise after so many steps."""
        self._trip()
        return AdvantageOutput(inputs.rewards, ~inputs.rewards.isnan())
