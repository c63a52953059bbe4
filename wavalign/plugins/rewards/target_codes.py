"""Is the sound made of the target's codes? Each code that stands, in order, where the target has the same one counts 1.

The answer's codes and those of the target's sound are aligned by the fewest insertions and deletions; a code of the
answer is worth 1 where its partner is equal, 0 where it has none. The answer is worth 2 m / (n + k) for m pairs of n
and k codes: the Dice ratio, which too many codes lower as too few do.
Source: token-level GRPO against target tokens, as in Step-Audio-EditX; the alignment is a longest common subsequence.
"""

from typing import final

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.plugins.speech.matching import matches
from wavalign.plugins.speech.needs import needs_target_sound
from wavalign.plugins.token_rewards import over_codes
from wavalign.schema.base import Params


@final
class TargetCodes(Reward):
    """From 0 to 1, and 0 or 1 for every code."""

    Params = Params
    needs = frozenset({"target_codes"})
    range = (0.0, 1.0)

    @classmethod
    def dialogue_needs(cls, params: object, dialogue: Dialogue) -> str | None:
        return needs_target_sound(dialogue)

    @classmethod
    def instrument(cls, params: object) -> str:
        return "the codec's codes of the target"

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        clip = dialogue.target.audio if dialogue.target is not None else None
        if clip is None or not clip.codes:
            return Scored(None, "the target has no sound to compare with")
        said = rollout.answer.codes
        if not said:
            return Scored.absent("the answer has no sound")
        found = matches(said, clip.codes)
        paired = {i for i, _ in found}
        tokens = over_codes(rollout, [float(i in paired) for i in range(len(said))])
        value = 2 * len(found) / (len(said) + len(clip.codes))
        return Scored(value, details={"equal": float(len(found)), "said": float(len(said))}, tokens=tokens)
