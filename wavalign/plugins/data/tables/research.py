"""Records of the WavAlign research code as dialogues; the fields stand in `plugins.data.research_jsonl`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wavalign.plugins.batch import SIDES, AudioClip, Dialogue, Message
from wavalign.plugins.data.tables.layout import Complaints, Layout, clip, complaints

TaskType = Literal["s2s", "asr", "tts", "sqa", "text", "unknown"]
TAG = "<|audio|>"
HINT = "correct the record, or set on_bad: drop"
SHAPES: Mapping[str, tuple[bool, bool | None]] = {
    "s2s": (True, True), "asr": (True, False), "sqa": (True, None), "tts": (False, True), "text": (False, False),
}  # fmt: skip
"""Of each task type: whether the user is heard, and whether the answer is (None: either)."""


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", frozen=True)
    id: str | int | None = None
    sft_target_text: str | None = None
    sft_target_audio: str | None = None
    question_text: str | None = None
    task_type: TaskType | None = None
    rejected_audio: str | None = None
    orig_sft_target_audio: str | None = None


@final
class _Turn(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    role: Literal["system", "user", "assistant"]
    content: str


@final
class _Released(_Fields):
    messages: list[_Turn] = Field(min_length=1)
    audios: list[str] | None = None


@final
class _Legacy(_Fields):
    history: str | None = None
    history_text: str | None = None
    question_audio: str | None = None
    answer_text: str | None = None
    answer_audio_path: str | None = None


_DIALOGUE_FIELDS = frozenset(
    {"id", "messages", "audios", "sft_target_text", "sft_target_audio", "history", "question_audio"}
) | {"answer_text", "answer_audio_path"}
"""What becomes the dialogue itself; the rest is metadata."""


@final
@dataclass(frozen=True, slots=True)
class ResearchOptions:
    """How records are read; see the Params of the source."""

    audio_root: str | None
    task_types: tuple[str, ...] | None
    apart: bool
    keep_system: bool
    drop_bad: bool
    pairs: bool = False


@final
class ResearchLayout(Layout):
    """Rows that are records of the research code."""

    def __init__(self, options: ResearchOptions) -> None:
        self._options, self.drops_bad = options, options.drop_bad

    def dialogue(self, tree: Any, *, name: str, url: str) -> Dialogue | Complaints | None:
        found = self._read(tree, name, url)
        if isinstance(found, Complaints):
            return None if self._options.drop_bad else found
        wanted = self._options.task_types
        return found if wanted is None or found.metadata["task_type"] in wanted else None

    def _read(self, tree: Any, name: str, url: str) -> Dialogue | Complaints:
        if not isinstance(tree, Mapping):
            return Complaints(("not an object",), HINT)
        fields = {key: value for key, value in tree.items() if value is not None}  # a table has every key in every row
        try:
            record = (_Released if "messages" in fields else _Legacy).model_validate(fields)
        except ValidationError as error:
            return complaints(error, HINT)
        draft = _Draft(self._options, url)
        if isinstance(record, _Released):
            draft.released(record)
        else:
            assert isinstance(record, _Legacy)
            draft.legacy(record)
        task = draft.task(record.task_type)
        sides = draft.sides(fields) if self._options.pairs else ()
        if draft.wrong:
            return Complaints(tuple(draft.wrong), HINT)
        metadata = {key: value for key, value in fields.items() if key not in _DIALOGUE_FIELDS}
        for key in ("rejected_audio", "orig_sft_target_audio"):
            if sound := draft.clip(metadata.get(key)):
                metadata[key] = sound.url
        question = _clean(record.question_text) or draft.question()
        metadata |= {"task_type": task, "question_text": question}
        given = name if record.id is None else str(record.id)
        if not sides:
            return Dialogue(given, tuple(draft.messages), draft.target, metadata)
        scores = tuple(_score(fields.get(f"{side}_score")) for side in SIDES)
        pair = Dialogue(given, tuple(draft.messages), None, metadata, targets=sides, members=(0, 1))
        return replace(pair, scores=scores) if scores != (None, None) else pair


@final
class _Draft:
    """A dialogue under construction and what is wrong with it."""

    def __init__(self, options: ResearchOptions, url: str) -> None:
        self._options, self._url = options, url
        self.messages: list[Message] = []
        self.target: Message | None = None
        self.wrong: list[str] = []

    def clip(self, path: str | None) -> AudioClip | None:
        """Sound by a path of the record."""
        return clip(_clean(path), self._url, self._options.audio_root)

    def sides(self, fields: Mapping[str, Any]) -> tuple[Message, ...]:
        """The target and the rejected answer; what is missing of them is noted."""
        text, sound = fields.get("rejected_text"), fields.get("rejected_audio")
        if not isinstance(text, str | None) or not isinstance(sound, str | None):
            self.wrong.append("rejected_text and rejected_audio are text")
            return ()
        text, clip_ = _clean(text) or "", self.clip(sound)
        if self.target is None or (not text and clip_ is None):
            self.wrong.append(f"there is no {'chosen' if self.target is None else 'rejected'} answer")
            return ()
        return (self.target, Message("assistant", text, clip_))

    def released(self, record: _Released) -> None:
        """`messages` with `audios` in the order of their tags."""
        tags, audios = sum(turn.content.count(TAG) for turn in record.messages), record.audios or []
        if tags != len(audios):
            self.wrong.append(f"{tags} {TAG} in the messages and {len(audios)} audios: each tag stands for one path")
            return
        paths = iter(audios)
        for index, turn in enumerate(record.messages):
            self._turn(index, turn, [next(paths) for _ in range(turn.content.count(TAG))])
        last: list[Message] = []
        while self.messages and self.messages[-1].role == "assistant":
            last.insert(0, self.messages.pop())
        self._answer(record.sft_target_text, record.sft_target_audio)
        self._last_turns(last)
        self._needs_user()

    def legacy(self, record: _Legacy) -> None:
        """`history`, question and answer; `question_text` is what `question_audio` says."""
        self.messages = _history(_clean(record.history) or _clean(record.history_text))
        text, sound = _clean(record.question_text), self.clip(record.question_audio)
        if text or sound:
            self.messages.append(Message("user", text or "", sound))
        given = _clean(record.answer_text) or record.sft_target_text
        self._answer(given, _clean(record.answer_audio_path) or record.sft_target_audio)
        self._needs_user()

    def task(self, declared: str | None) -> str:
        """The task type, declared or read off the record, as the research code does."""
        heard = any(turn.audio is not None for turn in self.messages if turn.role == "user")
        spoken = self.target is not None and self.target.audio is not None
        if declared is None:
            return _inferred(heard, spoken, written=self.target is not None and bool(self.target.text))
        wants_heard, wants_spoken = SHAPES.get(declared, (heard, None))
        if heard != wants_heard and not self.wrong:  # else it follows from what was said already
            self.wrong.append(f"task_type is {declared}, and the user is {'heard' if heard else 'not heard'}")
        if self.target is not None and wants_spoken is not None and spoken != wants_spoken:
            self.wrong.append(f"task_type is {declared}, and the target has {'sound' if spoken else 'no sound'}")
        return declared

    def question(self) -> str:
        """What the user writes: the words a judge is shown where the record has no question_text."""
        return "\n\n".join(turn.text for turn in self.messages if turn.role == "user" and turn.text)

    def _turn(self, index: int, turn: _Turn, paths: list[str]) -> None:
        if turn.role == "system" and not self._options.keep_system:
            return
        if not paths:
            self.messages.append(Message(turn.role, turn.content))
            return
        before, _, after = turn.content.partition(TAG)
        if len(paths) > 1:
            self.wrong.append(f"messages.{index}: {len(paths)} {TAG} in one message: split it, one a message")
            return
        if after.strip():
            self.wrong.append(f"messages.{index}: text behind {TAG}: put it before, or into a message of its own")
            return
        sound, text = self.clip(paths[0]), before.strip()
        if sound is None:
            self.wrong.append(f"messages.{index}: its path in audios is empty")
            return
        if text and turn.role == "user" and self._options.apart:
            self.messages.append(Message("user", text))
            text = ""
        self.messages.append(Message(turn.role, text, sound))

    def _answer(self, text: str | None, audio: str | None) -> None:
        text, sound = _clean(text), self.clip(audio)
        if text is not None or sound is not None:
            self.target = Message("assistant", text or "", sound)

    def _last_turns(self, last: list[Message]) -> None:
        """The assistant's messages at the end: the target where there is no other, else they must say the same."""
        if not last:
            return
        if len(last) > 1:
            self.wrong.append("the messages end in several of the assistant: one is the answer")
        elif self.target is None:
            self.target = last[0]
        elif last[0].text.strip() != self.target.text:
            self.wrong.append("the messages end in an answer that is not sft_target_text: leave one of the two out")

    def _needs_user(self) -> None:
        if not self.wrong and not any(turn.role == "user" for turn in self.messages):
            self.wrong.append("there is no message of the user")


def _inferred(heard: bool, spoken: bool, *, written: bool) -> str:
    """A spoken question with a written answer counts as asr, as it does there."""
    if heard and spoken and written:
        return "s2s"
    if heard and written:
        return "asr"
    if spoken and not heard:
        return "tts"
    return "text" if written else "unknown"


def _history(text: str | None) -> list[Message]:
    """`[USER] ... [ASSISTANT] ...` as turns; text without these marks is one message of the user."""
    if text is None:
        return []
    if "[USER]" not in text or "[ASSISTANT]" not in text:
        return [Message("user", text)]
    parts = re.split(r"\[(USER|ASSISTANT)\]", text)
    turns = [("USER", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]
    return [Message(role.lower(), said.strip()) for role, said in turns if said.strip()]


def _clean(text: str | None) -> str | None:
    """Text without blanks around it; None where nothing is left."""
    return (text.strip() or None) if text is not None else None


def _score(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
