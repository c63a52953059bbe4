"""Who listens to an answer, and how what is heard is compared with what was to be said.

pocketsphinx  hears nothing but the words of given sentences; words are compared as they are written
whisper       hears any English; words are compared by their sound, for it spells as it likes (`four`, `for`)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, final

from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech import whisper
from wavalign.plugins.speech.recognizer import recognizer
from wavalign.plugins.speech.sentences import instrument_name, load_sentences
from wavalign.plugins.speech.sounding import sounds
from wavalign.plugins.speech.wording import content_word, tokens

Listener = Literal["pocketsphinx", "whisper"]


class Ears(Protocol):
    """A recogniser; any number of threads may call it."""

    def recognize(self, waveform: Waveform) -> str:
        """What is said in `waveform`, empty for nothing."""

    def recognize_all(self, waveforms: Sequence[Waveform]) -> list[str]:
        """The same of each of `waveforms`."""


@final
@dataclass(frozen=True, slots=True)
class Hearing:
    """A recogniser, and what its words are compared by."""

    ears: Ears
    words: Callable[[str], tuple[str, ...]]
    """A text as what is compared."""
    content_word: Callable[[str], str]
    """The word of a text that carries the answer, the last one; empty for no words."""


def hearing(listener: Listener, *, sentences: str | None, workers: int) -> Hearing:
    """The one of this process; `workers` sounds at a time. Raises DataError for sentences that cannot be read."""
    if listener == "whisper":
        return Hearing(whisper.whisper(workers), sounds, content_sound)
    return Hearing(recognizer(load_sentences(sentences), workers), tokens, content_word)


def content_sound(text: str) -> str:
    """How the last word of `text` sounds; empty for no words."""
    found = sounds(text)
    return found[-1] if found else ""


def instrument_of(listener: Listener, sentences: str | None) -> str:
    """What the recogniser is called as an instrument."""
    return whisper.INSTRUMENT if listener == "whisper" else instrument_name(sentences)


def check_listener(listener: Listener, sentences: str | None) -> None:
    """Raise ValueError for sentences that nobody would look at."""
    if listener == "whisper" and sentences is not None:
        raise ValueError("`sentences` is for `recognizer: pocketsphinx`; whisper hears any words: leave it out")
