"""Can the words be understood? One minus the word error rate of what Whisper hears.

    r = max(0, 1 - errors / words)      errors: fewest substitutions, deletions and insertions of words that count

Compared with the answer's own text (does the sound say what the text says?), with a reference in the metadata, or with
the target's text. Words are compared by their sound, for Whisper spells as it likes. The words around the one that
matters are heard in nearly any answer and give a wrong one half the credit: only `content` words count, unless `words`
says otherwise; `exact` gives 1 where all of them are heard and nothing else, `last` looks at the last word alone.
Whisper listens to 29 s. Source: `plugins.speech.whisper`. What fools it: docs/rewards.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, final

from pydantic import Field

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.plugins.speech.answers import sound_of
from wavalign.plugins.speech.function_words import weighted_sounds
from wavalign.plugins.speech.hearing import content_sound, hearing, instrument_of
from wavalign.plugins.speech.needs import needs_reference
from wavalign.plugins.speech.sounding import sounds
from wavalign.plugins.speech.word_errors import Weighted, weighted_errors
from wavalign.plugins.speech.wording import references
from wavalign.schema.base import Params

Words = Literal["content", "all", "exact", "last"]


def _all(text: str) -> tuple[Weighted, ...]:
    """How every word of `text` sounds."""
    return tuple((sound, 1.0) for sound in sounds(text))


def _last(text: str) -> tuple[Weighted, ...]:
    """How the last word of `text` sounds."""
    found = content_sound(text)
    return ((found, 1.0),) if found else ()


_COUNTED: Final[Mapping[Words, Callable[[str], tuple[Weighted, ...]]]] = {
    "content": weighted_sounds,
    "all": _all,
    "exact": _all,
    "last": _last,
}


@final
class WordAccuracyParams(Params):
    """Which words should be heard, and who listens."""

    against: Literal["own_text", "reference", "target"] = "own_text"
    """The words to be heard: those of the answer's own text, of a right answer in the metadata, or of the target."""
    reference: str = "reference"
    """Metadata key of the right answer, for `against: reference`; of several the nearest counts."""
    words: Words = "content"
    """Which count: all but function words, all, all and no other (1 or 0), or the last one (1 or 0)."""
    threads: int = Field(default=1, ge=1, le=64)
    """Listening threads; a clip of some seconds costs one of them 0.1 to 0.2 s."""


@final
class WordAccuracy(Reward):
    """From 0 to 1: the share of words that can be understood, wrong additions subtracted."""

    Params = WordAccuracyParams
    needs = frozenset({"text", "waveform"})
    range = (0.0, 1.0)
    params: WordAccuracyParams

    @classmethod
    def dialogue_needs(cls, params: WordAccuracyParams, dialogue: Dialogue) -> str | None:
        if params.against == "own_text":
            return None
        key = params.reference if params.against == "reference" else None
        if lacks := needs_reference(dialogue, key, or_target=False):
            return lacks
        counted = _COUNTED[params.words]
        if any(_count(counted(each)) for each in _stated(params, dialogue)):
            return None
        return f"no word of the {params.against} counts with `words: {params.words}`: set it to all"

    @classmethod
    def instrument(cls, params: WordAccuracyParams) -> str:
        return instrument_of("whisper", None)

    def __init__(self, params: WordAccuracyParams) -> None:
        super().__init__(params)
        self._hearing = hearing("whisper", sentences=None, workers=params.threads)

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        counted, own = _COUNTED[self.params.words], self.params.against == "own_text"
        texts = (rollout.answer.text,) if own else _stated(self.params, dialogue)
        wanted = [words for words in map(counted, texts) if _count(words)]
        if not wanted and own:
            return Scored.absent("the answer has no text, or none of its words count")
        if not wanted:
            return Scored(None, f"dialogue {dialogue.id} states no words to be heard")
        sound = sound_of(rollout)
        if isinstance(sound, Scored):
            return sound
        heard = self._hearing.ears.recognize(sound)
        said = counted(heard)
        pairs = [(weighted_errors(said, words), _count(words)) for words in wanted]
        errors, count = min(pairs, key=lambda pair: pair[0] / pair[1])
        right = float(errors == 0) if self.params.words == "exact" else max(0.0, 1.0 - errors / count)
        return Scored(right, details={"heard": heard, "errors": errors, "words": count})


def _count(words: Sequence[Weighted]) -> float:
    """How many of `words` count."""
    return sum(weight for _, weight in words)


def _stated(params: WordAccuracyParams, dialogue: Dialogue) -> tuple[str, ...]:
    """Texts of the dialogue of which one should be heard."""
    if params.against == "reference":
        return references(dialogue.metadata.get(params.reference))
    return () if dialogue.target is None else references(dialogue.target.text)
