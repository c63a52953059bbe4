"""Is the answer about as long as it should be? 1 within the bounds, half as long or twice as long as they allow 0.5.

    r = min over what is bounded of  x / low below, 1 within, high / x above

x is the number of words (a number counts as one, as does a character where a script has no spaces), the seconds of
sound, or a multiple of the target's words or codes. Nothing said is 0. Made to be a guard: `guard: lowest`, `below: 1`.
Source: own.
"""

from collections.abc import Iterator
from typing import ClassVar, Self, final

from pydantic import model_validator

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored, Waveform
from wavalign.plugins.bounds import Bounds, within
from wavalign.plugins.speech.answers import sound_of
from wavalign.plugins.speech.needs import needs_reference, needs_target_sound
from wavalign.plugins.speech.wording import tokens
from wavalign.schema.base import Params


@final
class LengthParams(Params):
    """What is bounded: one of these at least."""

    words: Bounds | None = None
    """Fewest and most words, e.g. [1, 40]."""
    seconds: Bounds | None = None
    """Shortest and longest sound."""
    words_of_target: Bounds | None = None
    """The same as multiples of the target's words, e.g. [0.5, 2]."""
    codes_of_target: Bounds | None = None
    """As multiples of the codes of the target's sound."""

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if all(each is None for each in (self.words, self.seconds, self.words_of_target, self.codes_of_target)):
            raise ValueError("nothing is bounded: set words, seconds, words_of_target or codes_of_target")
        return self


@final
class Length(Reward):
    """From 0 to 1: 1 within all bounds."""

    Params = LengthParams
    needs: ClassVar[frozenset[str]] = frozenset({"text", "waveform", "target_codes"})
    range = (0.0, 1.0)
    params: LengthParams

    def __init__(self, params: LengthParams) -> None:
        super().__init__(params)
        self.needs = self.needs_of(params)  # type: ignore[misc]  # options decide them

    @classmethod
    def needs_of(cls, params: LengthParams) -> frozenset[str]:
        needs = {"text"}
        if params.seconds is not None:
            needs.add("waveform")
        if params.codes_of_target is not None:
            needs.add("target_codes")
        return frozenset(needs)

    @classmethod
    def dialogue_needs(cls, params: LengthParams, dialogue: Dialogue) -> str | None:
        lacks = None
        if params.words_of_target is not None:
            lacks = needs_reference(dialogue, None, or_target=False)
        if params.codes_of_target is not None:
            lacks = lacks or needs_target_sound(dialogue)
        return lacks

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        sound = sound_of(rollout) if self.params.seconds is not None else None
        if isinstance(sound, Scored) and sound.blame == "reward":
            return sound
        seconds = sound.seconds if isinstance(sound, Waveform) else 0.0
        found = {name: (value, bounds) for name, value, bounds in self._lengths(rollout, dialogue, seconds)}
        values = {name: within(*each) for name, each in found.items()}
        worst = min(values, key=lambda name: values[name])
        value, (low, high) = found[worst]
        reason = f"{value:.3g} {worst.replace('_', ' ')}, bounds {low:g} to {high:g}" if values[worst] < 1 else ""
        return Scored(values[worst], reason, {name: each[0] for name, each in found.items()})

    def _lengths(
        self, rollout: Rollout, dialogue: Dialogue, seconds: float
    ) -> Iterator[tuple[str, float, tuple[float, float]]]:
        """Name, value and bounds of what is bounded."""
        params, words, target = self.params, len(tokens(rollout.answer.text)), dialogue.target
        if params.words is not None:
            yield "words", float(words), params.words
        if params.seconds is not None:
            yield "seconds", seconds, params.seconds
        if params.words_of_target is not None:
            wanted = len(tokens(target.text)) if target is not None else 0
            yield "words_of_target", words / max(1, wanted), params.words_of_target
        if params.codes_of_target is not None:
            clip = target.audio if target is not None else None
            wanted = len(clip.codes or ()) if clip is not None else 0
            yield "codes_of_target", len(rollout.answer.codes) / max(1, wanted), params.codes_of_target
