"""The prompt and the answer of a dialogue as two aligned streams.

    audio   U  [  c1 .. cm  ]  W  D  S  |  B  ..  B   a1 .. aN  D        U, S begin the user's and the assistant's turn
    text    B  B  B  ..  B  B  B  B  B  |  t1 ..  tk  E   B  ..  B       [ ] begin and end of media, W what is wanted

Consecutive messages of one speaker share one turn. A written message stands on the text stream, beside blanks; W
follows a turn that ends in sound. Earlier spoken answers stand as they were generated, without marks of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest
from typing import Literal, final

import torch

from wavalign.errors import DataError
from wavalign.plugins.architectures.kimi_audio.layout import AUDIO, KimiLayout
from wavalign.plugins.architectures.kimi_audio.vocabulary import KimiVocabulary
from wavalign.plugins.batch import AudioClip, Dialogue, Message, Role, TokenSequence

EncodeAudio = Callable[[AudioClip], Sequence[int]]
Output = Literal["by_target", "both", "text"]
Columns = list[tuple[int, int]]
"""(text id, audio id) of every position."""


@final
@dataclass(frozen=True, slots=True)
class DialogueWriter:
    """Writes dialogues in the layout of one checkpoint."""

    vocabulary: KimiVocabulary
    output: Output
    feed_user_text: bool

    @property
    def layout(self) -> KimiLayout:
        """Control ids."""
        return self.vocabulary.layout

    def silent(self, dialogue: Dialogue) -> bool:
        """Whether the answer is to be text alone."""
        if self.output == "by_target":
            return dialogue.target is not None and dialogue.target.audio is None
        return self.output == "text"

    def prompt(self, dialogue: Dialogue, encode_audio: EncodeAudio) -> TokenSequence:
        """Everything before the answer, [2, T]. The last audio position is FORCED where no sound is to follow."""
        if not dialogue.messages:
            raise DataError(f"dialogue {dialogue.id}: no messages")
        silent, blank, columns = self.silent(dialogue), self.layout.blank, []
        for role, turn in groupby(dialogue.messages, key=lambda message: message.role):
            if role == "user":
                columns += self._user_turn(list(turn), dialogue.id, encode_audio, silent=silent)
            elif role == "assistant":
                columns += self._assistant_turn(list(turn), dialogue.id, encode_audio)
            else:
                raise DataError(
                    f"dialogue {dialogue.id}: role {role!r} is not user or assistant",
                    hint="this family knows no system messages; say it in a user message",
                )
        columns.append((blank, self.layout.assistant_start))
        ids = torch.tensor(columns).T.contiguous()
        roles = torch.full_like(ids, int(Role.PROMPT), dtype=torch.int8)
        if silent:
            roles[AUDIO, -1] = int(Role.FORCED)
        return TokenSequence(ids, roles)

    def answer(self, dialogue: Dialogue, message: Message, encode_audio: EncodeAudio) -> TokenSequence:
        """An assistant's message as a completion, [2, T]."""
        what, codes = f"dialogue {dialogue.id}", []
        if not self.silent(dialogue):
            codes = self._codes(message.audio, dialogue.id, encode_audio)
            if not codes:
                raise DataError(f"{what}: the target has no sound", hint="set output to by_target or text")
        text = self.vocabulary.encode(message.text, what=what, strict=True) if message.text else []
        try:
            return self.layout.answer(text, codes)
        except ValueError as error:
            raise DataError(
                f"{what}: the target's sound ends before its text: {error}", hint="leave it out, or shorten the text"
            ) from None

    def _user_turn(self, turn: Sequence[Message], name: str, encode_audio: EncodeAudio, *, silent: bool) -> Columns:
        """One closed turn of the user."""
        layout, blank = self.layout, self.layout.blank
        columns: Columns = [(blank, layout.user_start)]
        for message in turn:
            codes = self._codes(message.audio, name, encode_audio)
            if message.text and (not codes or self.feed_user_text):
                columns += [(x, blank) for x in self._plain(message.text, name)]
            if codes:
                sounds = [layout.media_begin, *(layout.first_code + code for code in codes), layout.media_end]
                columns += [(blank, x) for x in sounds]
        if columns[-1] == (blank, layout.media_end):
            columns.append((blank, layout.text_wanted if silent else layout.speech_wanted))
        return [*columns, (blank, layout.message_end)]

    def _assistant_turn(self, turn: Sequence[Message], name: str, encode_audio: EncodeAudio) -> Columns:
        """One closed turn of the assistant; text alone ends in its end mark, text beside sound does not."""
        layout, blank = self.layout, self.layout.blank
        columns: Columns = [(blank, layout.assistant_start)]
        for message in turn:
            codes = self._codes(message.audio, name, encode_audio)
            words = self._plain(message.text, name)
            if codes:
                columns += zip_longest(words, layout.delayed(codes), fillvalue=blank)
            elif words:
                columns += [(x, blank) for x in [*words, layout.text_end]]
        return [*columns, (blank, layout.message_end)]

    def _plain(self, text: str, name: str) -> list[int]:
        return self.vocabulary.encode(text, what=f"dialogue {name}", strict=False) if text else []

    def _codes(self, clip: AudioClip | None, name: str, encode_audio: EncodeAudio) -> list[int]:
        """Codec ids of a clip, none where there is no clip; raises DataError on ids the checkpoint does not know."""
        if clip is None:
            return []
        codes, count = list(encode_audio(clip)), self.layout.num_codes
        if not codes:
            raise DataError(f"dialogue {name}: {clip.url} holds no sound")
        if min(codes) < 0 or max(codes) >= count:
            raise DataError(
                f"dialogue {name}: {clip.url} encodes to ids outside 0..{count - 1}",
                hint="the codec and the architecture must agree on num_codes",
            )
        return codes
