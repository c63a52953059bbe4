"""Is every word heard that should be, where it is said? +1 on the sound of each right word, -1 on that of a wrong one.

What a recogniser hears is aligned with the reference's words by the fewest insertions and deletions. A heard word that
has an equal partner pays 1, any other costs 1, divided among the frames in which it was heard. The answer is worth
2 m / max(n, k) - 1 for m pairs of n heard and k wanted words: from -1, nothing right, to 1, all of it.
Source: own construction; PocketSphinx (Huggins-Daines et al., 2006) with a closed language model listens.
"""

from typing import final

from pydantic import Field

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.plugins.speech.answers import sound_of
from wavalign.plugins.speech.matching import matches
from wavalign.plugins.speech.needs import needs_reference
from wavalign.plugins.speech.recognizer import recognizer
from wavalign.plugins.speech.sentences import instrument_name, load_sentences
from wavalign.plugins.speech.wording import plain, references
from wavalign.plugins.token_rewards import Span, over_spans
from wavalign.schema.base import Params, RecipePath


@final
class AlignedWordsParams(Params):
    """Who listens, for what, and what should be heard."""

    reference: str | None = "reference"
    """Metadata key of the words that should be heard (of several accepted texts the best heard one counts); null takes
    the answer's own text."""
    sentences: RecipePath | None = None
    """Text file of the sentences the recogniser may hear, one a line; null takes the embedded world's answers."""
    processes: int = Field(default=2, ge=1, le=64)
    """Listening processes."""
    codes_per_frame: int = Field(default=1, ge=1, le=256)
    """Ids of a frame that stand one behind another in a stream; 1 takes each for a frame of its own."""


@final
class AlignedWords(Reward):
    """From -1 to 1, and at most 1 either way for every token of sound."""

    Params = AlignedWordsParams
    needs = frozenset({"text", "waveform"})
    range = (-1.0, 1.0)
    params: AlignedWordsParams

    @classmethod
    def dialogue_needs(cls, params: AlignedWordsParams, dialogue: Dialogue) -> str | None:
        return None if params.reference is None else needs_reference(dialogue, params.reference, or_target=False)

    @classmethod
    def instrument(cls, params: AlignedWordsParams) -> str:
        return instrument_name(params.sentences)

    def __init__(self, params: AlignedWordsParams) -> None:
        super().__init__(params)
        self._recognizer = recognizer(load_sentences(params.sentences), params.processes)

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        wanted = self._wanted(rollout, dialogue)
        if not wanted:
            missing = "the answer has no text" if self.params.reference is None else "there is no reference"
            return Scored.absent(missing) if self.params.reference is None else Scored(None, missing)
        sound = sound_of(rollout)
        if isinstance(sound, Scored):
            return sound
        heard = self._recognizer.words(sound)
        said = [each.word for each in heard]
        found, words = max(((matches(said, words), words) for words in wanted), key=lambda each: len(each[0]))
        right = {i for i, _ in found}
        spans = [Span(each.start, each.end, 1.0 if i in right else -1.0) for i, each in enumerate(heard)]
        # Words so short that they share a frame add up there.
        tokens = over_spans(rollout, spans, codes_per_frame=self.params.codes_per_frame).clamp(-1, 1)
        value = 2 * len(found) / max(len(said), len(words)) - 1
        return Scored(value, details={"heard": " ".join(said)}, tokens=tokens)

    def _wanted(self, rollout: Rollout, dialogue: Dialogue) -> list[list[str]]:
        """Texts that should be heard, as words; empty ones left out."""
        key = self.params.reference
        texts = [rollout.answer.text] if key is None else references(dialogue.metadata.get(key))
        return [words for words in (plain(str(text)).split() for text in texts) if words]
