"""How things are said: the assistant's styles, the users' voices, and the small differences between renditions.

A style is a place of eSpeak's four sliders. Neighbouring styles overlap on purpose: a rendition moves every slider a
little, so that even perfect tokens are sometimes taken for the neighbouring style.
"""

from dataclasses import dataclass
from typing import final

from wavalign.plugins.speech.espeak import Delivery

ASSISTANT_VOICE = "en-us"
TAUGHT_VOICES = ("en-us+m3", "en-us+m1")
"""User voices of every split but `unseen_voices`; a source uses the first `voices` of them."""
UNSEEN_VOICES = ("en-us+m4", "en-us+f2")


@final
@dataclass(frozen=True, slots=True)
class Style:
    """A way to answer, the words that ask for it, and the prosody of both sides."""

    name: str
    request: str
    """Said after the question where the style is asked in words."""
    answer: Delivery
    """The assistant's sliders."""
    question: Delivery
    """The user's sliders where prosody alone carries the style."""


def _style(name: str, adverb: str, answer: tuple[int, int, int, int], question: tuple[int, int, int, int]) -> Style:
    deliveries = (
        Delivery(voice, pitch, spread, rate, volume)
        for voice, (pitch, spread, rate, volume) in ((ASSISTANT_VOICE, answer), (TAUGHT_VOICES[0], question))
    )
    return Style(name, f"say it {adverb}", *deliveries)


STYLES = (
    _style("neutral", "plainly", (45, 45, 158, 100), (48, 50, 190, 100)),
    _style("happy", "happily", (62, 75, 170, 108), (66, 78, 204, 110)),
    _style("sad", "sadly", (28, 18, 132, 82), (30, 22, 162, 84)),
    _style("calm", "calmly", (38, 28, 142, 90), (38, 32, 174, 92)),
    _style("excited", "excitedly", (72, 88, 186, 116), (78, 90, 222, 118)),
)
"""The five styles, in the order in which the metric's confusion is worth reading."""

ANSWER_JITTER = ((-4, -4, -6), (-4, 4, 2), (-2, 0, 6), (0, -2, 0), (0, 4, -3), (2, -4, 3), (3, 2, -5), (4, 0, 5))
"""(pitch, range, rate) added to the assistant's sliders: few, so that equal answers share their sound file."""


def requests() -> tuple[str, ...]:
    """Everything said to ask for a style."""
    return tuple(style.request for style in STYLES)
