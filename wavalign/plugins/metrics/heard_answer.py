"""Share of spoken answers in which a recogniser hears the right word, and in which it hears the text's own word.

`heard_answer` compares the last word heard with the reference's, `heard_own_text` with that of the rollout's text. An
answer without sound was heard as nothing: it counts as wrong in the first; without text it has no place in the second.
The gold answers' value is the ceiling to compare with: PocketSphinx knows only the given sentences, and no recogniser
understands everything.
"""

from collections.abc import Sequence
from typing import Self, final

import numpy as np
from pydantic import Field, model_validator

from wavalign.plugins.api import Measurement, Metric
from wavalign.plugins.batch import Dialogue, RolloutGroup, Waveform
from wavalign.plugins.metrics.intervals import broken_down, first_rollouts, proportion
from wavalign.plugins.speech.hearing import Listener, check_listener, hearing, instrument_of
from wavalign.plugins.speech.needs import needs_reference
from wavalign.plugins.speech.wording import references
from wavalign.schema.base import Params, RecipePath

_NOTHING = Waveform(np.zeros(0, np.float32), 16_000)
_RIGHT = "A recogniser hears the reference's answer word in the sound."
_OWN = "A recogniser hears in the sound the answer word that the text says, right or wrong."


@final
class HeardAnswerParams(Params):
    """Who listens, for what, and how it is broken down."""

    reference: str = "reference"
    """Metadata key of the right answer: a text, a number, true or false, or a list of accepted ones."""
    recognizer: Listener = "pocketsphinx"
    """Who listens: a recogniser of given sentences, or `whisper` (extra `natural`), which hears any English."""
    sentences: RecipePath | None = None
    """Text file of the sentences the recogniser may hear, one a line; null takes the embedded world's answers."""
    processes: int = Field(default=2, ge=1, le=64)
    """Listening processes; threads of whisper."""
    by: tuple[str, ...] = Field(default=(), max_length=100)
    """Metadata keys to report `heard_answer` by."""

    @model_validator(mode="after")
    def _sentences_are_looked_at(self) -> Self:
        check_listener(self.recognizer, self.sentences)
        return self


@final
class HeardAnswer(Metric):
    """Answers as a recogniser understands them, with Wilson intervals."""

    Params = HeardAnswerParams
    needs = frozenset({"text", "waveform"})
    params: HeardAnswerParams

    @classmethod
    def dialogue_needs(cls, params: HeardAnswerParams, dialogue: Dialogue) -> str | None:
        return needs_reference(dialogue, params.reference, or_target=False)

    @classmethod
    def instrument(cls, params: HeardAnswerParams) -> str:
        return instrument_of(params.recognizer, params.sentences)

    def __init__(self, params: HeardAnswerParams) -> None:
        super().__init__(params)
        self._hearing = hearing(params.recognizer, sentences=params.sentences, workers=params.processes)

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        return self.conclude(groups, self.observe(groups))

    def observe(self, groups: Sequence[RolloutGroup]) -> list[str]:
        rollouts = first_rollouts(groups)
        return self._hearing.ears.recognize_all([(each and each.waveform) or _NOTHING for each in rollouts])

    def conclude(self, groups: Sequence[RolloutGroup], observed: Sequence[str]) -> list[Measurement]:
        rollouts, heard, content_word = first_rollouts(groups), observed, self._hearing.content_word
        right: list[bool | None] = []
        own: list[bool | None] = []
        for group, rollout, words in zip(groups, rollouts, heard, strict=True):
            wanted = tuple(map(content_word, references(group.dialogue.metadata.get(self.params.reference))))
            written = content_word(rollout.answer.text) if rollout is not None else ""
            right.append(content_word(words) in wanted if wanted and rollout is not None else None)
            own.append(content_word(words) == written if written else None)
        shown = tuple(None if rollout is None else words for rollout, words in zip(rollouts, heard, strict=True))
        whole = proportion("heard_answer", right, details={"heard": shown}, says=_RIGHT)
        parts = broken_down(whole, groups, self.params.by)
        return [whole, *parts, proportion("heard_own_text", own, says=_OWN)]
