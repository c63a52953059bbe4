"""Did the answer come to its end by itself? 1 where it did, 0 where the token limit cut it off.

`rollout.truncated` says what answers are worth that were cut off, whatever the rewards; this one is for recipes that
treat text and sound differently, or let it count by weight or multiply. Source: overlong filtering (arXiv 2503.14476).
"""

from typing import ClassVar, Literal, final

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.schema.base import Params


@final
class FinishedParams(Params):
    """What must have an end."""

    what: Literal["text", "answer"] = "answer"
    """The text, or all that was asked for, the sound too."""


@final
class Finished(Reward):
    """0 or 1."""

    Params = FinishedParams
    needs: ClassVar[frozenset[str]] = frozenset()
    range = (0.0, 1.0)
    params: FinishedParams

    @classmethod
    def needs_of(cls, params: FinishedParams) -> frozenset[str]:
        return frozenset({"text"} if params.what == "text" else ())

    def __init__(self, params: FinishedParams) -> None:
        super().__init__(params)
        self.needs = self.needs_of(params)  # type: ignore[misc]  # options decide them

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        answer = rollout.answer
        whole = answer.text_finished if self.params.what == "text" else answer.finished
        return Scored(1.0) if whole else Scored(0.0, f"the token limit cut off the {self.params.what}")
