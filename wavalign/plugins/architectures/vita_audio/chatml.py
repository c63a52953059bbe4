"""The prompt and the answer of a dialogue as tokens: ChatML turns, sound between begin and end marks.

    <|im_start|>system\\n{text}<|im_end|>\\n<|im_start|>user\\n{content}<|im_end|>\\n<|im_start|>assistant\\n

Sound is codec ids. Where the network has an encoder, that of users (and of system messages) is heard as features
instead: as many `<|context_of_audio|>` as the encoder gives states, which are 4 more than the features.

Text between two control tokens is tokenised in one piece, as the public training code does, so that a byte-pair
tokenizer merges line breaks in the same way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from wavalign.errors import DataError
from wavalign.plugins.architectures.stated_codes import check_codes
from wavalign.plugins.architectures.vita_audio.encoder import QUERIES
from wavalign.plugins.architectures.vita_audio.vocabulary import VitaVocabulary
from wavalign.plugins.batch import AudioClip, Dialogue, Message, Role, SoundSegment, TokenSequence

ROLES = ("system", "user", "assistant")


@final
@dataclass(slots=True)
class Draft:
    """A prompt under construction."""

    ids: list[int] = field(default_factory=list)
    sounds: list[SoundSegment] = field(default_factory=list)

    def finish(self) -> TokenSequence:
        """As one row, all PROMPT."""
        ids = torch.tensor([self.ids])
        roles = torch.full_like(ids, int(Role.PROMPT), dtype=torch.int8)
        return TokenSequence(ids, roles, sounds=tuple(self.sounds))


@final
@dataclass(frozen=True, slots=True)
class ChatWriter:
    """Writes dialogues in the layout of one checkpoint."""

    vocabulary: VitaVocabulary
    system_prompt: str
    """Opens dialogues that bring no system message; empty for none."""
    feed_user_text: bool
    extract: Callable[[AudioClip], Tensor] | None
    """Clip -> features [N, 560]; None where user sound is given as codec ids."""

    def prompt(self, dialogue: Dialogue, encode_audio: Callable[[AudioClip], Sequence[int]]) -> TokenSequence:
        """Everything before the answer."""
        if not dialogue.messages:
            raise DataError(f"dialogue {dialogue.id}: no messages")
        messages = list(dialogue.messages)
        if self.system_prompt and messages[0].role != "system":
            messages.insert(0, Message("system", self.system_prompt))
        draft = Draft()
        for message in messages:
            self._write_turn(draft, message, dialogue.id, encode_audio)
        draft.ids += [self.vocabulary.begin_turn, *self._plain("assistant\n", dialogue.id)]
        return draft.finish()

    def check_words(self, dialogue: Dialogue) -> None:
        """Raise DataError where roles or words cannot be written; no sound is looked at."""
        name = f"dialogue {dialogue.id}"
        for message in dialogue.messages:
            _check_role(message, name)
            unheard = message.role == "user" and message.audio is not None and not self.feed_user_text
            if message.text and not unheard:
                self.vocabulary.encode(message.text, what=name, strict=message.role == "assistant")
        check_codes(dialogue, num_codes=self.vocabulary.layout.num_codes)
        if dialogue.target is not None and dialogue.target.text:
            self.vocabulary.encode(dialogue.target.text, what=name, strict=True)

    def answer(self, message: Message, name: str, encode_audio: Callable[[AudioClip], Sequence[int]]) -> list[int]:
        """Ids of an assistant's message, closing token included.

        Before the sound the text ends with a line break, which is a text token like any other.
        """
        codes = self._codes(message.audio, name, encode_audio)
        written = message.text + "\n" if message.text and codes else message.text
        text = self.vocabulary.encode(written, what=f"dialogue {name}", strict=True) if written else []
        return [*self.vocabulary.layout.interleave(text, codes), self.vocabulary.layout.end_turn]

    def _write_turn(
        self, draft: Draft, message: Message, name: str, encode_audio: Callable[[AudioClip], Sequence[int]]
    ) -> None:
        """Add one closed turn with the line break behind it."""
        _check_role(message, f"dialogue {name}")
        draft.ids.append(self.vocabulary.begin_turn)
        if message.role == "assistant":
            draft.ids += self._plain("assistant\n", name) + self.answer(message, name, encode_audio)
        else:
            unheard = message.role == "user" and message.audio is not None and not self.feed_user_text
            text = "" if unheard else message.text
            draft.ids += self._plain(f"{message.role}\n{text}" + ("\n" if message.audio is not None else ""), name)
            if message.audio is not None and self.extract is not None:
                self._write_features(draft, self.extract(message.audio))
            else:
                draft.ids += self.vocabulary.layout.interleave([], self._codes(message.audio, name, encode_audio))
            draft.ids.append(self.vocabulary.layout.end_turn)
        draft.ids += self._plain("\n", name)

    def _write_features(self, draft: Draft, features: Tensor) -> None:
        """Add places for what the encoder makes of `features` [N, 560], between the marks of sound."""
        context, length = self.vocabulary.context_audio, len(features) + len(QUERIES)
        assert context is not None, "a vocabulary that was read for a network that hears"
        draft.ids.append(self.vocabulary.layout.begin_audio)
        draft.sounds.append(SoundSegment(len(draft.ids), length, features))
        draft.ids += [*[context] * length, self.vocabulary.layout.end_audio]

    def _plain(self, text: str, name: str) -> list[int]:
        return self.vocabulary.encode(text, what=f"dialogue {name}", strict=False)

    def _codes(
        self, clip: AudioClip | None, name: str, encode_audio: Callable[[AudioClip], Sequence[int]]
    ) -> list[int]:
        """Codec ids of a clip, none where there is no clip; raises DataError on ids the checkpoint does not know."""
        if clip is None:
            return []
        codes = list(encode_audio(clip))
        count = self.vocabulary.layout.num_codes
        if not codes:
            raise DataError(f"dialogue {name}: {clip.url} holds no sound")
        if min(codes) < 0 or max(codes) >= count:
            raise DataError(
                f"dialogue {name}: {clip.url} encodes to ids outside 0..{count - 1}",
                hint="the codec and the architecture must agree on num_codes",
            )
        return codes


def _check_role(message: Message, what: str) -> None:
    if message.role not in ROLES:
        raise DataError(f"{what}: role {message.role!r} is not one of {', '.join(ROLES)}")
