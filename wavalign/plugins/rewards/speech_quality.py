"""How good does it sound? A network of DNSMOS on one window of 9 s, on its own 1..5 scale.

`p808` is the overall quality of ITU-T P.808, `overall` that of P.835 at ten times the price. The third score of DNSMOS,
the quality of the speech alone (`sig`), rises when noise is added and cannot be chosen. A clip is repeated up to the
window's length; what comes after 9 s is not listened to. Source: Reddy, Gopal and Cutler, "DNSMOS: a non-intrusive
perceptual objective speech quality metric" (2021), "DNSMOS P.835" (2022). On synthetic voices only differences mean
something: give it a small weight. What fools it: docs/rewards.
"""

from typing import Literal, final

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.plugins.speech.answers import sound_of
from wavalign.plugins.speech.quality import INSTRUMENT, assess, check_installed
from wavalign.schema.base import Params

_LOWEST, _HIGHEST = 1.0, 5.0


@final
class SpeechQualityParams(Params):
    """Which network judges."""

    score: Literal["p808", "overall"] = "p808"
    """Overall quality as in P.808 (some 30 ms an answer) or as in P.835 (some 0.3 s)."""


@final
class SpeechQuality(Reward):
    """Predicted opinion score 1..5; one window of 9 s whatever the length, so the time is bounded."""

    Params = SpeechQualityParams
    needs = frozenset({"waveform"})
    range = (_LOWEST, _HIGHEST)
    params: SpeechQualityParams

    @classmethod
    def dialogue_needs(cls, params: SpeechQualityParams, dialogue: Dialogue) -> str | None:
        check_installed(overall=params.score == "overall")
        return None

    @classmethod
    def instrument(cls, params: SpeechQualityParams) -> str:
        return INSTRUMENT

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        sound = sound_of(rollout)
        if isinstance(sound, Scored):
            return sound
        quality = assess(sound, overall=self.params.score == "overall")
        if quality is None:
            return Scored.absent("the answer is silent")
        value = quality.p808 if quality.overall is None else quality.overall
        return Scored(min(max(value, _LOWEST), _HIGHEST))
