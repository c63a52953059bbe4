"""Does it say the same again and again? The share of n-grams that have not been there before, of words and of codes.

    r = min over words, codes and heard words of  (different n-grams) / (all n-grams)

1 where there are fewer items than an n-gram has. Steady sound (a hum, silence) is a loop of codes. Codes loop exactly
only where a policy writes them again; words that are said again are found by `heard: whisper`. Made to be a guard.
Source: distinct-n (Li et al., arXiv 1510.03055) within one answer.
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import ClassVar, Self, final

from pydantic import Field, model_validator

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.plugins.speech.answers import sound_of
from wavalign.plugins.speech.hearing import Hearing, Listener, check_listener, hearing, instrument_of
from wavalign.plugins.speech.wording import tokens
from wavalign.schema.base import Params, RecipePath


@final
class RepetitionParams(Params):
    """Where repetition is looked for."""

    words: int = Field(default=3, ge=0, le=100)
    """Words of an n-gram of the text; 0 does not look at the text."""
    codes: int = Field(default=16, ge=0, le=10_000)
    """Ids of an n-gram of the codes, as they lie flat in the answer; 0 does not look at codes."""
    heard: Listener | None = None
    """Who listens for words that are said again, in n-grams of `words`; null asks nobody. `whisper` hears them, for
    `pocketsphinx` a sentence is over after a few words."""
    sentences: RecipePath | None = None
    """Of `pocketsphinx`: text file of the sentences it may hear; null takes the embedded world's answers."""
    processes: int = Field(default=2, ge=1, le=64)
    """Listening processes, or threads of whisper."""

    @model_validator(mode="after")
    def _looks_somewhere(self) -> Self:
        if not self.words and (self.heard is not None or not self.codes):
            raise ValueError("nothing is looked at: set words or codes; heard words are compared in n-grams of `words`")
        if self.heard is not None:
            check_listener(self.heard, self.sentences)
        return self


@final
class Repetition(Reward):
    """From 0, nothing but repetition, to 1."""

    Params = RepetitionParams
    needs: ClassVar[frozenset[str]] = frozenset({"text", "waveform"})
    range = (0.0, 1.0)
    params: RepetitionParams

    @classmethod
    def needs_of(cls, params: RepetitionParams) -> frozenset[str]:
        if params.heard is not None:
            return cls.needs
        # Codes are there where the whole answer is sampled, which who needs the text alone does not ask for.
        return frozenset() if params.codes else frozenset({"text"})

    @classmethod
    def instrument(cls, params: RepetitionParams) -> str:
        return "" if params.heard is None else instrument_of(params.heard, params.sentences)

    def __init__(self, params: RepetitionParams) -> None:
        super().__init__(params)
        self.needs = self.needs_of(params)  # type: ignore[misc]  # options decide them
        self._hearing: Hearing | None = None
        if params.heard is not None:
            self._hearing = hearing(params.heard, sentences=params.sentences, workers=params.processes)

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        heard = ""
        if self._hearing is not None:
            sound = sound_of(rollout)
            if isinstance(sound, Scored):
                return sound
            heard = self._hearing.ears.recognize(sound)
        shares = dict(self._shares(rollout, heard))
        worst = min(shares, key=lambda name: shares[name])
        reason = f"{1 - shares[worst]:.0%} of the {worst} have been there before" if shares[worst] < 1 else ""
        said: dict[str, float | str] = {**shares} | ({"transcript": heard} if self._hearing is not None else {})
        return Scored(shares[worst], reason, said)

    def _shares(self, rollout: Rollout, heard: str) -> Iterator[tuple[str, float]]:
        """What is new, by where it was looked for."""
        if self.params.words:
            yield "words", new_share(tokens(rollout.answer.text), self.params.words)
        if self.params.codes:
            yield "codes", new_share(rollout.answer.codes, self.params.codes)
        if self._hearing is not None:
            yield "heard", new_share(self._hearing.words(heard), self.params.words)


def new_share(items: Sequence[Hashable], size: int) -> float:
    """Share of the n-grams of `size` items that have not been there before; 1 where there is none."""
    grams = [tuple(items[start : start + size]) for start in range(len(items) - size + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0
