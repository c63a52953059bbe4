"""Is it the voice it should be? The cosine of two speaker embeddings.

    r = max(0, cos(answer, voice) - floor) / (1 - floor)

Embeddings have no negative entries, so the cosine of any two sounds is above 0, and that of two people's often .5 or
more: `floor` says what counts for nothing. Source: `plugins.speech.speaker`. What fools it: docs/rewards.
"""

from typing import final

from pydantic import Field

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import AudioClip, Dialogue, Rollout, Scored
from wavalign.plugins.speech.answers import sound_of
from wavalign.plugins.speech.compared import WHOM, Whose, clip_embedding, clip_of, needs_sound_of
from wavalign.plugins.speech.speaker import INSTRUMENT, speaker_embedding, weights_file
from wavalign.schema.base import Params, RecipePath


@final
class SpeakerSimilarityParams(Params):
    """Whose voice an answer should have."""

    voice: Whose = "target"
    """That of the gold sound, of the user's last turn, or of the sound that `metadata.voice_prompt` names."""
    file: RecipePath | None = None
    """A sound file with the voice that every answer should have, instead."""
    floor: float = Field(default=0.0, ge=0, lt=1)
    """Cosine up to which the score is 0."""


@final
class SpeakerSimilarity(Reward):
    """From 0 to 1, where 1 is the same voice."""

    Params = SpeakerSimilarityParams
    needs = frozenset({"waveform"})
    range = (0.0, 1.0)
    params: SpeakerSimilarityParams

    @classmethod
    def dialogue_needs(cls, params: SpeakerSimilarityParams, dialogue: Dialogue) -> str | None:
        weights_file()  # a run is to end before it begins where they are not there
        return None if params.file is not None else needs_sound_of(dialogue, params.voice, option="voice")

    @classmethod
    def instrument(cls, params: SpeakerSimilarityParams) -> str:
        return INSTRUMENT

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        file, floor = self.params.file, self.params.floor
        clip = AudioClip(file) if file is not None else clip_of(dialogue, self.params.voice)
        if clip is None:
            return Scored(None, f"no sound of {WHOM[self.params.voice]} to compare with")
        wanted = clip_embedding(clip.url)
        if wanted is None:
            return Scored(None, f"{clip.url} is silent: there is no voice to compare with")
        sound = sound_of(rollout)
        if isinstance(sound, Scored):
            return sound
        said = speaker_embedding(sound)
        if said is None:
            return Scored.absent("the answer is silent")
        cosine = min(float(said @ wanted), 1.0)
        return Scored(max(0.0, cosine - floor) / (1.0 - floor), details={"cosine": cosine})
