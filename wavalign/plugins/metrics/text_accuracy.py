"""Share of right written answers: those equal to an accepted one, compared as `speech.wording` says.

Dialogues without a reference are left out and thus missing from the count.
"""

from collections.abc import Sequence
from typing import final

from pydantic import Field

from wavalign.plugins.api import Measurement, Metric
from wavalign.plugins.batch import Dialogue, RolloutGroup
from wavalign.plugins.metrics.intervals import broken_down, first_rollouts, proportion
from wavalign.plugins.speech.needs import needs_reference
from wavalign.plugins.speech.wording import references, tokens
from wavalign.schema.base import Params


@final
class TextAccuracyParams(Params):
    """What is compared and how it is broken down."""

    reference: str = "reference"
    """Metadata key of the right answer: a text, a number, true or false, or a list of accepted ones."""
    by: tuple[str, ...] = Field(default=(), max_length=100)
    """Metadata keys to report `text_accuracy` by, e.g. `[misconceived, category]`."""


@final
class TextAccuracy(Metric):
    """Exact answers, with Wilson intervals."""

    Params = TextAccuracyParams
    needs = frozenset({"text"})
    params: TextAccuracyParams

    @classmethod
    def dialogue_needs(cls, params: TextAccuracyParams, dialogue: Dialogue) -> str | None:
        return needs_reference(dialogue, params.reference, or_target=False)

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        hits: list[bool | None] = []
        for group, rollout in zip(groups, first_rollouts(groups), strict=True):
            wanted = tuple(map(tokens, references(group.dialogue.metadata.get(self.params.reference))))
            hits.append(tokens(rollout.answer.text) in wanted if wanted and rollout is not None else None)
        whole = proportion("text_accuracy", hits, says="The written answer is the reference, word by word.")
        return [whole, *broken_down(whole, groups, self.params.by)]
