"""Two aligned streams: what stands where in an answer, and what every position is.

    text    t1 t2 ... tk  E   B   B  ...  B   B          B blank, E end of text, D end of message
    audio   B  B  ...  B  a1  a2  ...  aN  D             as many B as the checkpoint's delay

The text stream holds the words and its end mark; behind it stand blanks. The audio stream begins with `delay` blanks.
At step t both heads see everything up to t - 1 and neither sees what the other chooses at t.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from wavalign.plugins.batch import Role, TokenSequence

TEXT, AUDIO = 0, 1
"""Index of a stream, and of the head that predicts it."""


@final
@dataclass(frozen=True, slots=True)
class KimiLayout:
    """The control ids of one checkpoint and its audio delay."""

    blank: int
    """Fills either stream where it has nothing to say."""
    text_end: int
    """Ends the text stream of an answer."""
    message_end: int
    """Ends a speaker's turn, on the audio stream; chosen by the audio head it ends an answer."""
    user_start: int
    assistant_start: int
    media_begin: int
    """Opens what the user says, on the audio stream."""
    media_end: int
    """Closes what the user says; chosen by the audio head it also ends an answer."""
    text_wanted: int
    """Behind what the user says: the answer is text alone."""
    speech_wanted: int
    """Behind what the user says: the answer is text and speech."""
    first_code: int
    num_codes: int
    delay: int

    @property
    def control(self) -> frozenset[int]:
        """All control ids."""
        starts = {self.user_start, self.assistant_start, self.media_begin}
        ends = {self.message_end, self.media_end, self.text_end}
        return frozenset(starts | ends | {self.blank, self.text_wanted, self.speech_wanted})

    @property
    def audio_ends(self) -> tuple[int, int]:
        """Ids by which the audio head ends an answer."""
        return (self.message_end, self.media_end)

    def answer(self, text: Sequence[int], codes: Sequence[int]) -> TokenSequence:
        """Text ids and codec ids (0-based) as one answer; without codes the audio stream is all blanks.

        Raises ValueError where the sound ends before the text does: generation stops with the sound.
        """
        words = [*text, self.text_end]
        sounds = [*self.delayed(codes), self.message_end] if codes else [self.blank] * len(words)
        rest = len(sounds) - len(words)
        if rest < 0:
            raise ValueError(f"{len(words)} text tokens do not fit beside {len(sounds)} audio positions")
        word_roles = [Role.TEXT] * len(text) + [Role.TEXT_END] + [Role.FORCED] * rest
        sound_roles = [Role.FORCED] * len(sounds)
        if codes:
            sound_roles = [Role.FORCED] * self.delay + [Role.AUDIO] * len(codes) + [Role.AUDIO_MARK]
        ids = torch.tensor([words + [self.blank] * rest, sounds])
        return TokenSequence(ids, torch.tensor([word_roles, sound_roles], dtype=torch.int8))

    def delayed(self, codes: Sequence[int]) -> list[int]:
        """Codec ids (0-based) as ids of the audio stream, behind the delay."""
        return [self.blank] * self.delay + [self.first_code + code for code in codes]

    def take_apart(self, text: Sequence[int], audio: Sequence[int]) -> tuple[list[int], list[int], bool]:
        """Text ids, codec ids and whether an answer's two streams are complete; undoes `answer`."""
        written = text[: text.index(self.text_end)] if self.text_end in text else text
        words = [x for x in written if x < self.first_code and x not in self.control]
        last = self.first_code + self.num_codes
        codes = [x - self.first_code for x in audio if self.first_code <= x < last]
        silent = all(x == self.blank for x in audio) and self.text_end in text
        return words, codes, silent or (len(audio) > 0 and audio[-1] in self.audio_ends)

    def role_table(self, vocabulary_size: int) -> Tensor:
        """Role [2, V] int8 of every id a head may choose, by stream."""
        table = torch.empty((2, vocabulary_size), dtype=torch.int8)
        table[TEXT] = int(Role.TEXT)
        table[TEXT, self.text_end] = int(Role.TEXT_END)
        table[AUDIO] = int(Role.AUDIO_MARK)
        table[AUDIO, self.first_code : self.first_code + self.num_codes] = int(Role.AUDIO)
        return table
