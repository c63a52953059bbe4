"""How much an answer sounds like the voice it should have: the cosine of two speaker embeddings.

Compared with the gold sound as it was recorded, with the user's turn, with a voice prompt, or with one file. On the
gold answers it says what the codec leaves of a voice: the ceiling. Silent answers are left out and thus missing from
the count. Source: `plugins.speech.speaker`.
"""

from collections.abc import Sequence
from typing import final

from wavalign.plugins.api import Measurement, Metric
from wavalign.plugins.batch import AudioClip, Dialogue, RolloutGroup
from wavalign.plugins.metrics.intervals import first_rollouts, mean
from wavalign.plugins.speech.compared import WHOM, Whose, clip_of, needs_sound_of, voice_similarity
from wavalign.plugins.speech.speaker import INSTRUMENT, speaker_embedding, weights_file
from wavalign.schema.base import Params, RecipePath

_SAYS = "Cosine of the speaker embeddings of the answer's sound and of {whom}; 1 is the same voice."


@final
class SpeakerSimilarityParams(Params):
    """Whose voice an answer should have."""

    voice: Whose = "target"
    """That of the gold sound, of the user's last turn, or of the sound that `metadata.voice_prompt` names."""
    file: RecipePath | None = None
    """A sound file with the voice that every answer should have, instead."""


@final
class SpeakerSimilarity(Metric):
    """Cosines -1..1, with a normal interval."""

    Params = SpeakerSimilarityParams
    needs = frozenset({"waveform"})
    params: SpeakerSimilarityParams

    @classmethod
    def dialogue_needs(cls, params: SpeakerSimilarityParams, dialogue: Dialogue) -> str | None:
        weights_file()  # a run is to end before it begins where they are not there
        return None if params.file is not None else needs_sound_of(dialogue, params.voice, option="voice")

    @classmethod
    def instrument(cls, params: SpeakerSimilarityParams) -> str:
        return INSTRUMENT

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        return self.conclude(groups, self.observe(groups))

    def observe(self, groups: Sequence[RolloutGroup]) -> list[float | None]:
        return [self._similarity(group) for group in groups]

    def conclude(self, groups: Sequence[RolloutGroup], observed: Sequence[float | None]) -> list[Measurement]:
        whom = WHOM[self.params.voice] if self.params.file is None else "the voice of a file"
        return [mean("speaker_similarity", observed, "cosine", says=_SAYS.format(whom=whom))]

    def _similarity(self, group: RolloutGroup) -> float | None:
        (rollout,), file = first_rollouts([group]), self.params.file
        clip = AudioClip(file) if file is not None else clip_of(group.dialogue, self.params.voice)
        if rollout is None or rollout.waveform is None or clip is None:
            return None
        return voice_similarity(speaker_embedding(rollout.waveform), clip)
