"""Better than usual: A = R - b, with a baseline b that follows the mean reward of the steps before.

After each step b <- m b + (1 - m) mean R, with `momentum` m; the first step, which has none before it, takes its own
mean. Source: REINFORCE (Williams 1992, section 4: reinforcement comparison).
"""

from collections.abc import Mapping
from typing import Any, final

from pydantic import Field

from wavalign.plugins.answer_level import AnswerLevelParams, answer_level, mean_of
from wavalign.plugins.api import Advantage, AdvantageInputs, AdvantageOutput


@final
class MovingBaselineParams(AnswerLevelParams):
    """How fast the baseline follows."""

    momentum: float = Field(default=0.9, ge=0, lt=1)
    """What the baseline keeps of itself at every step: 0 compares with the step before alone."""


@final
class MovingBaseline(Advantage):
    """Rewards relative to those of earlier steps."""

    Params = MovingBaselineParams
    params: MovingBaselineParams

    def __init__(self, params: MovingBaselineParams) -> None:
        super().__init__(params)
        self._baseline: float | None = None

    @property
    def compares_answers(self) -> bool:
        return False

    def compute(self, inputs: AdvantageInputs) -> AdvantageOutput:
        """Of every answer that has a reward; a step without any leaves the baseline as it is."""
        rewards, mean = inputs.rewards, mean_of(inputs.rewards)
        baseline = mean if self._baseline is None else self._baseline
        if mean is not None and baseline is not None:
            self._baseline = self.params.momentum * baseline + (1 - self.params.momentum) * mean
        return answer_level(rewards - (baseline or 0.0), ~rewards.isnan(), self.params)

    def state_dict(self) -> dict[str, Any]:
        """The baseline; null before there was a reward."""
        return {"baseline": self._baseline}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict()`."""
        found = state["baseline"]
        self._baseline = None if found is None else float(found)
