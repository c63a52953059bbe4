"""The prompt and the answer of a dialogue as ids: ChatML turns, sound between begin and end marks.

    <|im_start|>system\\n{text}<|im_end|>\\n<|im_start|>user\\n{content}<|im_end|>\\n<|im_start|>assistant\\n

Text between two control tokens is tokenised in one piece, as the public training code does, so that a byte-pair
tokenizer merges line breaks in the same way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from wavalign.errors import DataError
from wavalign.plugins.architectures.vita_audio.vocabulary import VitaVocabulary
from wavalign.plugins.batch import AudioClip, Dialogue, Message

ROLES = ("system", "user", "assistant")


@final
@dataclass(frozen=True, slots=True)
class ChatWriter:
    """Writes dialogues in the layout of one checkpoint."""

    vocabulary: VitaVocabulary
    system_prompt: str
    """Opens dialogues that bring no system message; empty for none."""
    feed_user_text: bool

    def prompt(self, dialogue: Dialogue, encode_audio: Callable[[AudioClip], Sequence[int]]) -> list[int]:
        """Ids of everything before the answer."""
        if not dialogue.messages:
            raise DataError(f"dialogue {dialogue.id}: no messages")
        messages = list(dialogue.messages)
        if self.system_prompt and messages[0].role != "system":
            messages.insert(0, Message("system", self.system_prompt))
        ids: list[int] = []
        for message in messages:
            ids += self._turn(message, dialogue.id, encode_audio)
        return [*ids, self.vocabulary.begin_turn, *self._plain("assistant\n", dialogue.id)]

    def answer(self, message: Message, name: str, encode_audio: Callable[[AudioClip], Sequence[int]]) -> list[int]:
        """Ids of an assistant's message, closing token included.

        Before the sound the text ends with a line break, which is a text token like any other.
        """
        codes = self._codes(message.audio, name, encode_audio)
        written = message.text + "\n" if message.text and codes else message.text
        text = self.vocabulary.encode(written, what=f"dialogue {name}", strict=True) if written else []
        return [*self.vocabulary.layout.interleave(text, codes), self.vocabulary.layout.end_turn]

    def _turn(self, message: Message, name: str, encode_audio: Callable[[AudioClip], Sequence[int]]) -> list[int]:
        """One closed turn with the line break behind it."""
        if message.role not in ROLES:
            raise DataError(f"dialogue {name}: role {message.role!r} is not one of {', '.join(ROLES)}")
        if message.role == "assistant":
            content = self._plain("assistant\n", name) + self.answer(message, name, encode_audio)
        else:
            codes = self._codes(message.audio, name, encode_audio)
            unheard = message.role == "user" and bool(codes) and not self.feed_user_text
            text = "" if unheard else message.text
            content = self._plain(f"{message.role}\n{text}" + ("\n" if codes else ""), name)
            content += [*self.vocabulary.layout.interleave([], codes), self.vocabulary.layout.end_turn]
        return [self.vocabulary.begin_turn, *content, *self._plain("\n", name)]

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
