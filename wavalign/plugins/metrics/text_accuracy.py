"""Share of right written answers: the whole sentence, and the word that carries the answer.

`text_accuracy` counts answers equal to an accepted one word by word, `content_accuracy` those whose last word is the
last of an accepted one; words are compared as `speech.wording` says. Dialogues without a reference are left out and
thus missing from the count.
"""

from collections.abc import Sequence
from typing import final

from wavalign.plugins.api import Measurement, Metric
from wavalign.plugins.batch import RolloutGroup
from wavalign.plugins.metrics.intervals import first_rollouts, proportions
from wavalign.plugins.speech.wording import content_word, references, tokens
from wavalign.schema.base import Params


@final
class TextAccuracyParams(Params):
    """What is compared and how it is broken down."""

    reference: str = "reference"
    """Metadata key of the right answer: a text, a number, true or false, or a list of accepted ones."""
    by: tuple[str, ...] = ()
    """Metadata keys to report `text_accuracy` by, e.g. `[misconceived, category]`."""


@final
class TextAccuracy(Metric):
    """Exact answers and exact answer words, with Wilson intervals."""

    Params = TextAccuracyParams
    needs = frozenset({"text"})
    params: TextAccuracyParams

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        whole, content = [], []
        for group in first_rollouts(groups):
            accepted = references(group.dialogue.metadata.get(self.params.reference))
            if accepted:
                said = group.rollouts[0].answer.text
                whole.append((group.dialogue, tokens(said) in map(tokens, accepted)))
                content.append((group.dialogue, content_word(said) in map(content_word, accepted)))
        exact = proportions("text_accuracy", whole, self.params.by)
        return [*exact, *proportions("content_accuracy", content, ())]
