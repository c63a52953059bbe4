"""A judge that takes its time, as one behind HTTP does: `answer_match` after a wait that holds nothing."""

import time
from typing import ClassVar, final

from pydantic import Field

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.plugins.rewards.answer_match import AnswerMatch, AnswerMatchParams
from wavalign.schema.base import Params


class SlowJudgeParams(Params):
    """How long it takes."""

    seconds: float = Field(default=0.1, ge=0)
    """Of every call."""


@final
class SlowJudge(Reward):
    """As `answer_match` with its defaults, later."""

    type = "slow_judge"
    Params = SlowJudgeParams
    needs: ClassVar[frozenset[str]] = AnswerMatch.needs
    range: ClassVar[tuple[float, float]] = AnswerMatch.range

    def __init__(self, params: SlowJudgeParams) -> None:
        super().__init__(params)
        self._match = AnswerMatch(AnswerMatchParams())

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        """Wait, then compare."""
        time.sleep(self.params.seconds)
        return self._match.score(rollout, dialogue)
