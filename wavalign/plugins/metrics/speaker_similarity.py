"""How much an answer sounds like the voice it should have: the cosine of two speaker embeddings.

Compared with the gold sound as it was recorded, with the user's turn, or with a voice prompt. On the gold answers it
says what the codec leaves of a voice: the ceiling. Silent answers are left out and thus missing from the count.
Source: `plugins.speech.speaker`.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, final

from wavalign.plugins import audio
from wavalign.plugins.api import Measurement, Metric
from wavalign.plugins.batch import AudioClip, Dialogue, RolloutGroup
from wavalign.plugins.metrics.intervals import first_rollouts, mean
from wavalign.plugins.speech.needs import needs_target_sound
from wavalign.plugins.speech.speaker import INSTRUMENT, speaker_embedding, weights_file
from wavalign.schema.base import Params

_SAYS = "Cosine of the speaker embeddings of the answer's sound and of {whom}; 1 is the same voice."
_WHOM = {"target": "the gold sound", "user": "the user's turn", "voice_prompt": "the voice prompt"}


@final
class SpeakerSimilarityParams(Params):
    """Whose voice an answer should have."""

    voice: Literal["target", "user", "voice_prompt"] = "target"
    """That of the gold sound, of the user's last turn, or of the sound that `metadata.voice_prompt` names."""


@final
class SpeakerSimilarity(Metric):
    """Cosines -1..1, with a normal interval."""

    Params = SpeakerSimilarityParams
    needs = frozenset({"waveform"})
    params: SpeakerSimilarityParams

    @classmethod
    def dialogue_needs(cls, params: SpeakerSimilarityParams, dialogue: Dialogue) -> str | None:
        weights_file()  # a run is to end before it begins where they are not there
        if params.voice == "target":
            return needs_target_sound(dialogue)
        if _voice(dialogue, params.voice) is not None:
            return None
        return f"no sound of {_WHOM[params.voice]}, whose voice is compared with: set `voice` to another one"

    @classmethod
    def instrument(cls, params: SpeakerSimilarityParams) -> str:
        return INSTRUMENT

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        return self.conclude(groups, self.observe(groups))

    def observe(self, groups: Sequence[RolloutGroup]) -> list[float | None]:
        return [self._similarity(group) for group in groups]

    def conclude(self, groups: Sequence[RolloutGroup], observed: Sequence[float | None]) -> list[Measurement]:
        says = _SAYS.format(whom=_WHOM[self.params.voice])
        return [mean("speaker_similarity", observed, "cosine", says=says)]

    def _similarity(self, group: RolloutGroup) -> float | None:
        (rollout,), clip = first_rollouts([group]), _voice(group.dialogue, self.params.voice)
        if rollout is None or rollout.waveform is None or clip is None:
            return None
        said, wanted = speaker_embedding(rollout.waveform), _clip_embedding(clip.url)
        return None if said is None or wanted is None else float(said @ wanted)


def _voice(dialogue: Dialogue, voice: str) -> AudioClip | None:
    """The sound in the voice that an answer should have."""
    if voice == "target":
        return None if dialogue.target is None else dialogue.target.audio
    if voice == "user":
        return next((turn.audio for turn in reversed(dialogue.messages) if turn.role == "user"), None)
    named = dialogue.metadata.get("voice_prompt")
    return AudioClip(named) if isinstance(named, str) else None


@lru_cache(maxsize=4096)
def _clip_embedding(url: str) -> Any:
    """Embedding [256] of a clip, which is compared with at every evaluation; None for silence."""
    return speaker_embedding(audio.read(AudioClip(url), sample_rate=None))
