"""Does the sound say what the text says? A recogniser listens for the word that carries the answer.

r = 1 where the last word heard is the last word of the rollout's own text, else 0. Only that word counts: the words
around it are heard in any answer. What Whisper hears is compared by its sound. Source: the semantic-consistency reward
of WavAlign-style post-training; the judge is PocketSphinx (Huggins-Daines et al., 2006) with a closed language model or
Whisper (Radford et al., 2022) with an open one.
"""

from typing import Self, final

from pydantic import Field, model_validator

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.plugins.speech.answers import sound_of
from wavalign.plugins.speech.hearing import Listener, check_listener, hearing, instrument_of
from wavalign.schema.base import Params, RecipePath


@final
class AsrConsistencyParams(Params):
    """Who listens, and for what."""

    recognizer: Listener = "pocketsphinx"
    """Who listens: a recogniser of given sentences, or `whisper` (extra `natural`), which hears any English."""
    sentences: RecipePath | None = None
    """Text file of the sentences the recogniser may hear, one a line; null takes the embedded world's answers."""
    processes: int = Field(default=2, ge=1, le=64)
    """Listening processes; a clip costs one of them some 50 ms, and at most 8 s of sound are listened to. Of whisper
    threads, and 29 s."""

    @model_validator(mode="after")
    def _sentences_are_looked_at(self) -> Self:
        check_listener(self.recognizer, self.sentences)
        return self


@final
class AsrConsistency(Reward):
    """1 for a text that can be heard in the sound, 0 for one that cannot."""

    Params = AsrConsistencyParams
    needs = frozenset({"text", "waveform"})
    range = (0.0, 1.0)

    @classmethod
    def instrument(cls, params: AsrConsistencyParams) -> str:
        return instrument_of(params.recognizer, params.sentences)

    def __init__(self, params: AsrConsistencyParams) -> None:
        super().__init__(params)
        self._hearing = hearing(params.recognizer, sentences=params.sentences, workers=params.processes)

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        written = self._hearing.content_word(rollout.answer.text)
        if not written:
            return Scored.absent("the answer has no text")
        sound = sound_of(rollout)
        if isinstance(sound, Scored):
            return sound
        heard = self._hearing.ears.recognize(sound)
        return Scored(float(self._hearing.content_word(heard) == written), details={"heard": heard})
