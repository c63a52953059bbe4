"""Share of spoken answers in which a recogniser hears the right word, and in which it hears the text's own word.

`heard_answer` compares the last word heard with the reference's, `heard_own_text` with that of the rollout's text. An
answer without sound was heard as nothing: it counts as wrong in the first; without text it has no place in the second.
PocketSphinx knows only the given sentences, so the gold answers' value is the ceiling to compare with. Whisper (in the
extra `natural`) writes down whatever it hears; of what it wrote words are compared by their sound (`four` = `for`).
"""

from collections.abc import Callable, Sequence
from typing import Literal, final

import numpy as np
from pydantic import Field, model_validator

from wavalign.plugins.api import Measurement, Metric
from wavalign.plugins.batch import Dialogue, RolloutGroup, Waveform
from wavalign.plugins.metrics.intervals import broken_down, first_rollouts, proportion
from wavalign.plugins.speech import whisper
from wavalign.plugins.speech.needs import needs_reference
from wavalign.plugins.speech.recognizer import Recognizer, recognizer
from wavalign.plugins.speech.sentences import instrument_name, load_sentences
from wavalign.plugins.speech.sounding import sounds
from wavalign.plugins.speech.whisper import Whisper
from wavalign.plugins.speech.wording import content_word, references
from wavalign.schema.base import Params, RecipePath

_NOTHING = Waveform(np.zeros(0, np.float32), 16_000)
_RIGHT = "A recogniser hears the reference's answer word in the sound."
_OWN = "A recogniser hears in the sound the answer word that the text says, right or wrong."


@final
class HeardAnswerParams(Params):
    """Who listens, for what, and how it is broken down."""

    reference: str = "reference"
    """Metadata key of the right answer: a text, a number, true or false, or a list of accepted ones."""
    recognizer: Literal["pocketsphinx", "whisper"] = "pocketsphinx"
    """Who listens: the one of a closed set of sentences, or the one with an open vocabulary."""
    sentences: RecipePath | None = None
    """Text file of the sentences PocketSphinx may hear, one a line; null takes the embedded world's answers."""
    processes: int = Field(default=2, ge=1, le=64)
    """Listening processes; of Whisper threads."""
    by: tuple[str, ...] = Field(default=(), max_length=100)
    """Metadata keys to report `heard_answer` by."""

    @model_validator(mode="after")
    def _whisper_takes_no_sentences(self) -> "HeardAnswerParams":
        if self.recognizer == "whisper" and self.sentences is not None:
            raise ValueError("Whisper has an open vocabulary: leave `sentences` out, or take recognizer: pocketsphinx")
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
        return whisper.INSTRUMENT if params.recognizer == "whisper" else instrument_name(params.sentences)

    def __init__(self, params: HeardAnswerParams) -> None:
        super().__init__(params)
        open_vocabulary = params.recognizer == "whisper"
        self._word: Callable[[str], str] = _last_sound if open_vocabulary else content_word
        self._recognizer: Whisper | Recognizer
        if open_vocabulary:
            self._recognizer = whisper.whisper(params.processes)
        else:
            self._recognizer = recognizer(load_sentences(params.sentences), params.processes)

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        return self.conclude(groups, self.observe(groups))

    def observe(self, groups: Sequence[RolloutGroup]) -> list[str]:
        rollouts = first_rollouts(groups)
        return self._recognizer.recognize_all([(each and each.waveform) or _NOTHING for each in rollouts])

    def conclude(self, groups: Sequence[RolloutGroup], observed: Sequence[str]) -> list[Measurement]:
        rollouts, heard = first_rollouts(groups), observed
        right: list[bool | None] = []
        own: list[bool | None] = []
        for group, rollout, words in zip(groups, rollouts, heard, strict=True):
            wanted = tuple(map(self._word, references(group.dialogue.metadata.get(self.params.reference))))
            written = self._word(rollout.answer.text) if rollout is not None else ""
            right.append(self._word(words) in wanted if wanted and rollout is not None else None)
            own.append(self._word(words) == written if written else None)
        shown = tuple(None if rollout is None else words for rollout, words in zip(rollouts, heard, strict=True))
        whole = proportion("heard_answer", right, details={"heard": shown}, says=_RIGHT)
        parts = broken_down(whole, groups, self.params.by)
        return [whole, *parts, proportion("heard_own_text", own, says=_OWN)]


def _last_sound(text: str) -> str:
    """How the word that carries the answer sounds; empty for no words."""
    found = sounds(text)
    return found[-1] if found else ""
