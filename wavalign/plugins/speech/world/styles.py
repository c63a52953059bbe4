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
    _style("neutral", "plainly", (45, 45, 156, 100), (48, 50, 190, 100)),
    _style("happy", "happily", (52, 60, 164, 104), (56, 62, 199, 105)),
    _style("sad", "sadly", (31, 26, 138, 88), (33, 28, 168, 88)),
    _style("calm", "calmly", (38, 36, 147, 94), (40, 38, 179, 94)),
    _style("excited", "excitedly", (60, 74, 173, 108), (65, 76, 209, 110)),
)
"""The five styles, in the order in which the metric's confusion is worth reading."""

ANSWER_JITTER = ((-4, -4, -6), (-4, 4, 2), (-2, 0, 6), (0, -2, 0), (0, 4, -3), (2, -4, 3), (3, 2, -5), (4, 0, 5))
"""(pitch, range, rate) added to the assistant's sliders: few, so that equal answers share their sound file."""


def requests() -> tuple[str, ...]:
    """Everything said to ask for a style."""
    return tuple(style.request for style in STYLES)
