"""Share of spoken answers in which a recogniser hears the right word, and in which it hears the text's own word.

`heard_answer` compares the last word heard with the reference's, `heard_own_text` with that of the rollout's text. An
answer without sound was heard as nothing: it counts as wrong in the first; without text it has no place in the second.
The recogniser knows only the given sentences, so the gold answers' value is the ceiling to compare with.
"""

from collections.abc import Sequence
from typing import final

import numpy as np
from pydantic import Field

from wavalign.plugins.api import Measurement, Metric
from wavalign.plugins.batch import RolloutGroup, Waveform
from wavalign.plugins.metrics.intervals import first_rollouts, proportion, proportions
from wavalign.plugins.speech.recognizer import recognizer
from wavalign.plugins.speech.sentences import load_sentences
from wavalign.plugins.speech.wording import content_word, references
from wavalign.schema.base import Params, RecipePath

_NOTHING = Waveform(np.zeros(0, np.float32), 16_000)


@final
class HeardAnswerParams(Params):
    """Who listens, for what, and how it is broken down."""

    reference: str = "reference"
    """Metadata key of the right answer: a text, a number, true or false, or a list of accepted ones."""
    sentences: RecipePath | None = None
    """Text file of the sentences the recogniser may hear, one a line; null takes the embedded world's answers."""
    processes: int = Field(default=2, ge=1, le=64)
    """Listening processes."""
    by: tuple[str, ...] = ()
    """Metadata keys to report `heard_answer` by."""


@final
class HeardAnswer(Metric):
    """What a listener understands, with Wilson intervals."""

    Params = HeardAnswerParams
    needs = frozenset({"text", "waveform"})
    params: HeardAnswerParams

    def __init__(self, params: HeardAnswerParams) -> None:
        super().__init__(params)
        self._recognizer = recognizer(load_sentences(params.sentences), params.processes)

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        shown = first_rollouts(groups)
        heard = self._recognizer.hear_all([group.rollouts[0].waveform or _NOTHING for group in shown])
        right, own = [], []
        for group, words in zip(shown, heard, strict=True):
            wanted = tuple(map(content_word, references(group.dialogue.metadata.get(self.params.reference))))
            written = content_word(group.rollouts[0].answer.text)
            if wanted:
                right.append((group.dialogue, content_word(words) in wanted))
            if written:
                own.append(content_word(words) == written)
        return [*proportions("heard_answer", right, self.params.by), proportion("heard_own_text", own)]
