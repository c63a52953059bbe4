"""Who speaks in an embedded world: its styles, its users' voices, and what makes a sound of a sentence.

Facts, splits, noise and records are the script's; two worlds differ in their speakers alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Literal, Protocol, final

from wavalign.plugins.speech import espeak
from wavalign.plugins.speech.espeak import Delivery
from wavalign.plugins.speech.world.natural_styles import (
    NATURAL_JITTER,
    NATURAL_STYLES,
    NATURAL_TAUGHT,
    NATURAL_UNSEEN,
    NaturalDelivery,
    natural_version,
)
from wavalign.plugins.speech.world.styles import ANSWER_JITTER, STYLES, TAUGHT_VOICES, UNSEEN_VOICES

SpeakersName = Literal["espeak", "natural"]
AnyDelivery = Delivery | NaturalDelivery
Step = tuple[int, int, int]
"""(pitch, rate, range) that a rendition moves the user's voice by."""


class AnyStyle(Protocol):
    """What the script asks of a style."""

    @property
    def name(self) -> str: ...

    @property
    def request(self) -> str: ...


class Speakers(ABC):
    """The voices of a world."""

    folder: str
    """Of the cache."""
    worker: str
    """Module that speaks a list of clips."""
    styles: Sequence[AnyStyle]
    taught: tuple[str, ...]
    """User voices of every split but `unseen_voices`; a source uses the first `voices` of them."""
    unseen: tuple[str, ...]
    steps: Mapping[str, Sequence[Step]]
    """By cue what a rendition may move; fewer where prosody carries the style."""
    num_jitters: int
    """Small differences between answers; few, so that equal answers share their sound file."""

    @abstractmethod
    def version(self) -> str:
        """Changes whenever the same delivery would sound different."""

    @abstractmethod
    def question(self, style: int, cue: str, voice: str, step: Step) -> AnyDelivery:
        """How a user asks in the style of that number."""

    @abstractmethod
    def answer(self, style: int, jitter: int) -> AnyDelivery:
        """How the assistant answers."""

    @abstractmethod
    def mumbled(self, delivery: AnyDelivery) -> tuple[AnyDelivery, float | None]:
        """`delivery` mumbled, and the decibels above white noise, None for no noise."""


@final
class EspeakSpeakers(Speakers):
    """The spoken world: eSpeak NG's sliders."""

    folder = "spoken_world"
    worker = "wavalign.plugins.speech.world.render_process"
    styles = STYLES
    taught, unseen = TAUGHT_VOICES, UNSEEN_VOICES
    steps = {  # noqa: RUF012 - never written to
        "words": list(product(range(-7, 7), range(-6, 7), (-4, 0, 4))),
        "prosody": list(product(range(-3, 4), range(-5, 6), (-4, -2, 0, 2, 4))),
    }
    num_jitters = len(ANSWER_JITTER)

    def version(self) -> str:
        return espeak.version()

    def question(self, style: int, cue: str, voice: str, step: Step) -> Delivery:
        spoken = (STYLES[style] if cue == "prosody" else STYLES[0]).question
        pitch, rate, spread = step
        return replace(
            spoken, voice=voice, pitch=spoken.pitch + pitch, range=spoken.range + spread, rate=spoken.rate + rate
        )

    def answer(self, style: int, jitter: int) -> Delivery:
        spoken = STYLES[style].answer
        pitch, spread, rate = ANSWER_JITTER[jitter]
        return replace(spoken, pitch=spoken.pitch + pitch, range=spoken.range + spread, rate=spoken.rate + rate)

    def mumbled(self, delivery: AnyDelivery) -> tuple[AnyDelivery, float | None]:
        assert isinstance(delivery, Delivery)
        return replace(delivery, rate=int(delivery.rate * _MUMBLED_RATE)), _MUMBLED_SNR


_MUMBLED_RATE = 1.5
_MUMBLED_SNR = 18.0


@final
class NaturalSpeakers(Speakers):
    """The natural world: neural voices."""

    folder = "natural_world"
    worker = "wavalign.plugins.speech.world.natural_process"
    styles = NATURAL_STYLES
    taught, unseen = NATURAL_TAUGHT, NATURAL_UNSEEN
    steps = {  # noqa: RUF012 - never written to
        "words": list(product(range(-6, 7), range(-6, 7), (-2, -1, 0, 1, 2))),
        "prosody": list(product(range(-4, 5), range(-4, 5), (-2, -1, 0, 1, 2))),
    }
    num_jitters = len(NATURAL_JITTER)

    def version(self) -> str:
        return natural_version()

    def question(self, style: int, cue: str, voice: str, step: Step) -> NaturalDelivery:
        spoken = (NATURAL_STYLES[style] if cue == "prosody" else NATURAL_STYLES[0]).question
        pitch, rate, spread = step
        return NaturalDelivery(
            voice,
            speed=round(spoken.speed * (1.0 + 0.012 * rate), 4),
            pitch=round(spoken.pitch + 0.12 * pitch, 3),
            range=round(spoken.range + 0.06 * spread, 3),
            level=spoken.level,
        )

    def answer(self, style: int, jitter: int) -> NaturalDelivery:
        spoken = NATURAL_STYLES[style].answer
        pitch, rate = NATURAL_JITTER[jitter]
        return replace(spoken, pitch=round(spoken.pitch + pitch, 3), speed=round(spoken.speed * rate, 4))

    def mumbled(self, delivery: AnyDelivery) -> tuple[AnyDelivery, float | None]:
        assert isinstance(delivery, NaturalDelivery)
        return replace(delivery, speed=round(delivery.speed * _MUMBLED_SPEED, 4), slur=_MUMBLED_SLUR), None


_MUMBLED_SPEED = 1.25
_MUMBLED_SLUR = 17

_SPEAKERS: dict[SpeakersName, Speakers] = {"espeak": EspeakSpeakers(), "natural": NaturalSpeakers()}


def speakers(name: SpeakersName) -> Speakers:
    """The speakers of that name."""
    return _SPEAKERS[name]
