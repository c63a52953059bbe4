"""The prompt and the answer of a dialogue as two aligned streams.

    audio   U  [  c1 .. cm  ]  W  D  S  |  B  ..  B   a1 .. aN  D        U, S begin the user's and the assistant's turn
    text    B  B  B  ..  B  B  B  B  B  |  t1 ..  tk  E   B  ..  B       [ ] begin and end of media, W what is wanted

Consecutive messages of one speaker share one turn. A written message stands on the text stream, beside blanks; W
follows a turn that ends in sound. Earlier spoken answers stand as they were generated, without marks of their own.
What a user says is also heard as features, one beside each of its codes; what the assistant said is not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from typing import Literal, final

import torch
from torch import Tensor

from wavalign.errors import DataError
from wavalign.plugins.architectures.kimi_audio.layout import AUDIO, KimiLayout
from wavalign.plugins.architectures.kimi_audio.vocabulary import KimiVocabulary
from wavalign.plugins.architectures.stated_codes import check_codes
from wavalign.plugins.batch import AudioClip, Dialogue, Message, Role, SoundSegment, TokenSequence

EncodeAudio = Callable[[AudioClip], Sequence[int]]
Extract = Callable[[AudioClip], Tensor]
"""Clip -> features [N, D], as many as it has codes."""
Output = Literal["by_target", "both", "text"]


@final
@dataclass(frozen=True, slots=True)
class Draft:
    """A row under construction."""

    columns: list[tuple[int, int]] = field(default_factory=list)
    """(text id, audio id) of every position."""
    sounds: list[SoundSegment] = field(default_factory=list)


@final
@dataclass(frozen=True, slots=True)
class DialogueWriter:
    """Writes dialogues in the layout of one checkpoint."""

    vocabulary: KimiVocabulary
    output: Output
    feed_user_text: bool
    extract: Extract | None
    """Clip -> features; None where sound is given as codes alone."""

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
        silent, draft = self.silent(dialogue), Draft()
        for role, turn in groupby(dialogue.messages, key=lambda message: message.role):
            if role == "user":
                self._user_turn(draft, list(turn), dialogue.id, encode_audio, silent=silent)
            elif role == "assistant":
                self._assistant_turn(draft, list(turn), dialogue.id, encode_audio)
            else:
                _check_role(next(turn), f"dialogue {dialogue.id}")
        draft.columns.append((self.layout.blank, self.layout.assistant_start))
        ids = torch.tensor(draft.columns).T.contiguous()
        roles = torch.full_like(ids, int(Role.PROMPT), dtype=torch.int8)
        if silent:
            roles[AUDIO, -1] = int(Role.FORCED)
        return TokenSequence(ids, roles, sounds=tuple(draft.sounds))

    def check_words(self, dialogue: Dialogue) -> None:
        """Raise DataError where roles or words cannot be written, or sound is owed; no sound is looked at."""
        name = f"dialogue {dialogue.id}"
        for message in dialogue.messages:
            _check_role(message, name)
            if message.text and (message.role != "user" or message.audio is None or self.feed_user_text):
                self.vocabulary.encode(message.text, what=name, strict=False)
        check_codes(dialogue, num_codes=self.layout.num_codes)
        target = dialogue.target
        if target is None:
            return
        if target.text:
            self.vocabulary.encode(target.text, what=name, strict=True)
        if target.audio is None and not self.silent(dialogue):
            raise DataError(f"{name}: the target has no sound", hint="set output to by_target or text")

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

    def _user_turn(
        self, draft: Draft, turn: Sequence[Message], name: str, encode_audio: EncodeAudio, *, silent: bool
    ) -> None:
        """Write one closed turn of the user."""
        layout, blank, columns = self.layout, self.layout.blank, draft.columns
        columns.append((blank, layout.user_start))
        for message in turn:
            codes = self._codes(message.audio, name, encode_audio)
            if message.text and (not codes or self.feed_user_text):
                columns += [(x, blank) for x in self._plain(message.text, name)]
            if message.audio is not None:
                columns.append((blank, layout.media_begin))
                if self.extract is not None:
                    draft.sounds.append(self._sound(message.audio, len(columns), len(codes), self.extract))
                columns += [(blank, layout.first_code + code) for code in codes]
                columns.append((blank, layout.media_end))
        if columns[-1] == (blank, layout.media_end):
            columns.append((blank, layout.text_wanted if silent else layout.speech_wanted))
        columns.append((blank, layout.message_end))

    def _assistant_turn(self, draft: Draft, turn: Sequence[Message], name: str, encode_audio: EncodeAudio) -> None:
        """Write one closed turn of the assistant; text alone ends in its end mark, text beside sound does not."""
        layout, blank, columns = self.layout, self.layout.blank, draft.columns
        columns.append((blank, layout.assistant_start))
        for message in turn:
            codes = self._codes(message.audio, name, encode_audio)
            words = self._plain(message.text, name)
            if codes:
                sounds = layout.delayed(codes)
                if len(words) > len(sounds):
                    raise DataError(
                        f"dialogue {name}: an earlier answer has {len(words)} text tokens beside {len(sounds)} audio "
                        "positions; its sound ends before its text",
                        hint="leave it out, or shorten the text",
                    )
                columns += zip_longest(words, sounds, fillvalue=blank)
            elif words:
                columns += [(x, blank) for x in [*words, layout.text_end]]
        columns.append((blank, layout.message_end))

    @staticmethod
    def _sound(clip: AudioClip, start: int, length: int, extract: Extract) -> SoundSegment:
        """Features of `clip` beside its codes; raises DataError where the two are not of one length."""
        values = extract(clip)
        if len(values) != length:
            raise DataError(
                f"{clip.url}: {length} codes but {len(values)} features, which come 12.5 a second",
                hint="the codec must give 12.5 codes a second, as the GLM-4-Voice tokenizer does",
            )
        return SoundSegment(start, length, values)

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


def _check_role(message: Message, what: str) -> None:
    if message.role not in ("user", "assistant"):
        raise DataError(
            f"{what}: role {message.role!r} is not user or assistant",
            hint="this family knows no system messages; say it in a user message",
        )
