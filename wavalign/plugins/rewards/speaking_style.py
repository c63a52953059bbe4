"""Was it said in the style that was asked for? Nearest centroid of pitch, pitch spread and speaking rate.

r = 1 where the nearest style is the asked one, else 0; with `soft` the asked style's share of a softmax over
-d^2 / 2, d the distance to each style in pooled standard deviations. The styles are those of the embedded world.
"""

from typing import final

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.plugins.speech.answers import sound_of
from wavalign.plugins.speech.needs import needs_style
from wavalign.plugins.speech.style_classifier import INSTRUMENT, STYLE_NAMES, classify_style
from wavalign.schema.base import Params


@final
class SpeakingStyleParams(Params):
    """How a near miss is graded."""

    soft: bool = True
    """Whether the score is the asked style's share (0..1) or right and wrong (1 and 0)."""


@final
class SpeakingStyle(Reward):
    """Score the sound's prosody against the asked style, 0..1."""

    Params = SpeakingStyleParams
    needs = frozenset({"text", "waveform"})
    range = (0.0, 1.0)
    params: SpeakingStyleParams

    @classmethod
    def dialogue_needs(cls, params: SpeakingStyleParams, dialogue: Dialogue) -> str | None:
        return needs_style(dialogue)

    @classmethod
    def instrument(cls, params: SpeakingStyleParams) -> str:
        return INSTRUMENT

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        asked = dialogue.metadata.get("style")
        if asked not in STYLE_NAMES:
            return Scored(None, f"dialogue {dialogue.id} asks for no known style ({asked!r})")
        sound = sound_of(rollout)
        if isinstance(sound, Scored):
            return sound
        estimate = classify_style(sound, rollout.answer.text)
        if estimate is None:
            return Scored.absent("no pitch or no text to measure the style by")
        value = estimate.likelihoods[asked] if self.params.soft else float(estimate.nearest == asked)
        return Scored(value, details={"nearest": estimate.nearest})
