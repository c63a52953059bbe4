"""Is the written answer the right one? Exact words score highest; two near misses have grades of their own.

r = 5 for the reference itself, `partial` for the reference's sentence with another word where the answer stands,
`contains` for another sentence with the answer's word in it, else 1. Source: own; a verifier in the sense of
reinforcement learning from verifiable rewards (arXiv 2411.15124).
"""

from typing import final

from pydantic import Field

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.plugins.speech.wording import content_word, plain
from wavalign.schema.base import Params

_LOWEST, _HIGHEST = 1.0, 5.0


@final
class AnswerMatchParams(Params):
    """Grades between a wrong answer (1) and the right one (5)."""

    partial: float = Field(default=1.0, ge=1.0, le=5.0)
    """Grade of a well-formed answer whose last word, the one that answers, is wrong."""
    contains: float = Field(default=1.0, ge=1.0, le=5.0)
    """Grade of an answer that has the right last word in other surroundings."""
    reference: str | None = "reference"
    """Metadata key of the right answer; null compares with the text of the dialogue's target."""


@final
class AnswerMatch(Reward):
    """Grade the text 1..5."""

    Params = AnswerMatchParams
    needs = frozenset({"text"})
    range = (_LOWEST, _HIGHEST)
    params: AnswerMatchParams

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        reference = self._reference(dialogue)
        if reference is None:
            return Scored(None, f"dialogue {dialogue.id} has no reference answer ({self.params.reference})")
        wanted, said = plain(reference), plain(rollout.answer.text)
        if said == wanted:
            return Scored(_HIGHEST)
        if said and said.split()[:-1] == wanted.split()[:-1]:
            return Scored(self.params.partial)
        if content_word(said) == content_word(wanted):
            return Scored(self.params.contains)
        return Scored(_LOWEST)

    def _reference(self, dialogue: Dialogue) -> str | None:
        if self.params.reference is not None:
            value = dialogue.metadata.get(self.params.reference)
            return value if isinstance(value, str) and plain(value) else None
        return dialogue.target.text if dialogue.target is not None and plain(dialogue.target.text) else None
