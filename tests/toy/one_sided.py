"""Plugins that fail on one process of several, for tests of what the others then do."""

import itertools
import os
from collections.abc import Sequence
from typing import Any, ClassVar, final

from wavalign.plugins.api import Advantage, Measurement, Metric, Reward
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


@final
class SidedAdvantage(Advantage, Sided):
    """The reward itself."""

    type = "sided_advantage"
    Params = SidedParams

    def __init__(self, params: SidedParams) -> None:
        super().__init__(params)
        self._construct()

    def compute(self, rewards: Any) -> Any:
        """Raise after so many steps."""
        self._trip()
        return rewards, ~rewards.isnan()
