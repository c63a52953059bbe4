"""The prompt and the answer of a dialogue as ids on the streams, in the words of a template.

What stands between two sounds is tokenised in one piece, control tokens included, as the public training code does, so
that a tokenizer treats spaces in the same way.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import final

import torch

from wavalign.errors import DataError
from wavalign.plugins.architectures.codec_language_model.layout import Column
from wavalign.plugins.architectures.codec_language_model.templates import BEGIN_SPEECH, END_SPEECH
from wavalign.plugins.architectures.codec_language_model.vocabulary import CodecLmVocabulary
from wavalign.plugins.architectures.stated_codes import check_codes
from wavalign.plugins.batch import AudioClip, Dialogue, Message, Role, TokenSequence

EncodeAudio = Callable[[AudioClip], Sequence[int]]
Frames = Sequence[Sequence[int]]
Part = str | Frames
"""A piece of text, or a sound; `<sosp>` and `<eosp>` stand in the texts beside it."""


@final
@dataclass(frozen=True, slots=True)
class CodecLmWriter:
    """Writes dialogues in the layout of one checkpoint."""

    vocabulary: CodecLmVocabulary
    codes_per_frame: int
    """Ids the codec gives per frame."""
    codebooks: int
    """How many of them, from the first, are written."""
    merge_repeats: bool
    says_text: bool
    says_transcript: bool
    instruction: str
    feed_user_text: bool

    def prompt(self, dialogue: Dialogue, encode_audio: EncodeAudio) -> TokenSequence:
        """Everything before the answer, [S, T], all PROMPT."""
        if not dialogue.messages:
            raise DataError(f"dialogue {dialogue.id}: no messages")
        template, parts = self.vocabulary.template, list[Part]()
        for role, turn in groupby(dialogue.messages, key=lambda message: message.role):
            if role == "system":
                parts += [self._words(message.text, dialogue.id).rstrip("\n") + "\n" for message in turn]
            elif role == "user":
                parts += [template.asker, *self._question(list(turn), dialogue.id, encode_audio), template.asked]
            elif role == "assistant":
                for message in turn:
                    parts += [template.answerer, *self._answer(message, "", dialogue.id, encode_audio)]
                    parts.append(template.answered)
            else:
                raise DataError(f"dialogue {dialogue.id}: role {role!r} is not one of system, user, assistant")
        columns = self._columns([*parts, template.answerer], after="")
        ids = torch.tensor([*self.vocabulary.layout.plain(self.vocabulary.begin), *columns]).T.contiguous()
        return TokenSequence(ids, torch.full_like(ids, int(Role.PROMPT), dtype=torch.int8))

    def check_words(self, dialogue: Dialogue) -> None:
        """Raise DataError where roles, words or stated codes cannot be written; no sound is looked at."""
        name = f"dialogue {dialogue.id}"
        for message in dialogue.messages:
            if message.role not in ("system", "user", "assistant"):
                raise DataError(f"{name}: role {message.role!r} is not one of system, user, assistant")
            if message.text and (message.role != "user" or message.audio is None or self.feed_user_text):
                self.vocabulary.checked(message.text, what=name, strict=False)
        check_codes(dialogue, num_codes=self.vocabulary.layout.num_codes, frame=self.codebooks)
        target = dialogue.target
        if target is not None:
            heard = self.says_transcript and target.audio is not None and target.text
            for text in (target.text, self._transcript(dialogue) if heard else ""):
                self._answerable(text, dialogue.id)

    def answer(self, dialogue: Dialogue, message: Message, encode_audio: EncodeAudio) -> torch.Tensor:
        """Ids [S, T] of an assistant's message as a completion, closing token included."""
        transcript = self._transcript(dialogue) if self.says_transcript and message.audio and message.text else ""
        for text in (message.text, transcript):
            self._answerable(text, dialogue.id)
        parts = self._answer(message, transcript, dialogue.id, encode_audio)
        return torch.tensor(self._columns(parts, after=self.vocabulary.template.answerer)).T.contiguous()

    def text_of(self, words: str) -> str:
        """The text of an answer whose words before the sound are `words`."""
        template = self.vocabulary.template
        if template.text_opens and template.text_opens in words:
            words = words.partition(template.text_opens)[2]
        ending = r"\s*".join(map(re.escape, template.text_closes.split()))
        return re.sub(rf"(\s*{ending})?\s*$", "", words).strip()

    def _question(self, turn: Sequence[Message], name: str, encode_audio: EncodeAudio) -> list[Part]:
        """What one user's turn says, its messages a space apart."""
        parts: list[Part] = []
        for message in turn:
            frames = self._frames(message.audio, name, encode_audio)
            if message.text and (not frames or self.feed_user_text):
                asked = f"{self.instruction} " if self.instruction and not frames else ""
                parts += [" ", asked + self._words(message.text, name)]
            if frames:
                parts += [" ", BEGIN_SPEECH, frames, END_SPEECH]
        return parts[1:]

    def _answer(self, message: Message, transcript: str, name: str, encode_audio: EncodeAudio) -> list[Part]:
        """What an assistant's message says, from the space before it to its closing token."""
        template, parts = self.vocabulary.template, list[Part]()
        frames = self._frames(message.audio, name, encode_audio)
        text = self._words(message.text, name) if self.says_text or not frames else ""
        if text and frames:
            opens = f"{template.text_opens} " if template.text_opens else ""
            heard = f"{transcript}{template.transcript_closes}" if transcript else ""
            parts = [f" {heard}{opens}{text}{template.text_closes}"]
        elif text or frames:
            parts = [f" {text}"]
        if frames:
            parts += [BEGIN_SPEECH, frames, END_SPEECH]
        return [*parts, self._end()]

    def _end(self) -> str:
        token = self.vocabulary.tokenizer.convert_ids_to_tokens(self.vocabulary.layout.ends[0])
        return str(token)

    def _transcript(self, dialogue: Dialogue) -> str:
        """Words of the last spoken question; none where the user wrote."""
        asked = [message for message in dialogue.messages if message.role == "user" and message.audio is not None]
        if not asked:
            return ""
        if not asked[-1].text:
            raise DataError(
                f"dialogue {dialogue.id}: the words of the spoken question are not known",
                hint="give the message its text, or set transcript: false",
            )
        return self._words(asked[-1].text, dialogue.id)

    def _words(self, text: str, name: str) -> str:
        return self.vocabulary.checked(text, what=f"dialogue {name}", strict=False) if text else ""

    def _answerable(self, text: str, name: str) -> None:
        """Raise DataError where an answer has words the model cannot write, or that would be taken for the template."""
        template = self.vocabulary.template
        if text:
            self.vocabulary.checked(text, what=f"dialogue {name}", strict=True)
        for piece in (template.text_opens, template.text_closes.strip()):
            if piece and piece in text:
                raise DataError(f"dialogue {name}: the text spells {piece}", hint="remove it from the text")

    def _columns(self, parts: Sequence[Part], *, after: str) -> list[Column]:
        """Ids of `parts`; neighbouring texts are encoded together, the first as it stands behind `after`."""
        vocabulary, columns = self.vocabulary, list[Column]()
        for is_text, group in groupby(parts, key=lambda part: isinstance(part, str)):
            if is_text:
                text = "".join(str(part) for part in group)
                if columns:  # the layout has put the end of speech, and blanks behind it
                    assert text.startswith(END_SPEECH)
                    columns += vocabulary.layout.plain(
                        vocabulary.continuation(text[len(END_SPEECH) :], after=END_SPEECH)
                    )
                else:
                    columns += vocabulary.layout.plain(vocabulary.continuation(text, after=after))
            else:
                for frames in group:
                    assert not isinstance(frames, str)
                    columns += vocabulary.layout.speech(frames)
        return columns

    def _frames(self, clip: AudioClip | None, name: str, encode_audio: EncodeAudio) -> list[Sequence[int]]:
        """The written codec ids of a clip, frame by frame; none where there is no clip. Raises DataError."""
        if clip is None:
            return []
        codes, count = list(encode_audio(clip)), self.vocabulary.layout.num_codes
        if not codes:
            raise DataError(f"dialogue {name}: {clip.url} holds no sound")
        size = self.codes_per_frame if clip.codes is None else self.codebooks
        if len(codes) % size:
            raise DataError(
                f"dialogue {name}: {clip.url} encodes to {len(codes)} ids, no multiple of {size}",
                hint="codes_per_frame must be that of the codec; a record's `codes` are the ids that the model writes",
            )
        starts = range(0, len(codes), size)
        frames = [codes[start : start + self.codebooks] for start in starts]
        if any(not 0 <= code < count for frame in frames for code in frame):
            raise DataError(
                f"dialogue {name}: {clip.url} encodes to ids outside 0..{count - 1}",
                hint="the codec and the architecture must agree on num_codes and codes_per_frame",
            )
        if self.merge_repeats and clip.codes is None:  # what a model has said stands as it is
            frames = frames[:1] + [later for earlier, later in pairwise(frames) if later != earlier]
        return list(frames)
