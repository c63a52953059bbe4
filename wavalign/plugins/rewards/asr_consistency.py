"""Does the sound say what the text says? A recogniser listens for the word that carries the answer.

r = 1 where the last word heard is the last word of the rollout's own text, else 0. Only that word counts: the words
around it are heard in any answer. Source: the semantic-consistency reward of WavAlign-style post-training, with
PocketSphinx (Huggins-Daines et al., 2006) and a closed language model as the judge.
"""

from typing import final

from pydantic import Field

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.plugins.speech.answers import sound_of
from wavalign.plugins.speech.recognizer import recognizer
from wavalign.plugins.speech.sentences import instrument_name, load_sentences
from wavalign.plugins.speech.wording import content_word
from wavalign.schema.base import Params, RecipePath


@final
class AsrConsistencyParams(Params):
    """Who listens, and for what."""

    sentences: RecipePath | None = None
    """Text file of the sentences the recogniser may hear, one a line; null takes the embedded world's answers."""
    processes: int = Field(default=2, ge=1, le=64)
    """Listening processes; a clip costs one of them some 50 ms, and at most 8 s of sound are listened to."""


@final
class AsrConsistency(Reward):
    """1 for a text that can be heard in the sound, 0 for one that cannot."""

    Params = AsrConsistencyParams
    needs = frozenset({"text", "waveform"})
    range = (0.0, 1.0)

    @classmethod
    def instrument(cls, params: AsrConsistencyParams) -> str:
        return instrument_name(params.sentences)

    def __init__(self, params: AsrConsistencyParams) -> None:
        super().__init__(params)
        self._recognizer = recognizer(load_sentences(params.sentences), params.processes)

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        written = content_word(rollout.answer.text)
        if not written:
            return Scored.absent("the answer has no text")
        sound = sound_of(rollout)
        if isinstance(sound, Scored):
            return sound
        heard = self._recognizer.recognize(sound)
        return Scored(float(content_word(heard) == written), details={"heard": heard})
