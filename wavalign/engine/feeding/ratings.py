"""Answers with people's scores, from JSONL.

One object a line:

    {"id"?, "prompt"?, "question": "..." | {"text"?, "audio"?}, "answer": "..." | {"text"?, "audio"?},
     "scores": 4 | [4, 5, 3] | {"anna": 4, "ben": 5}, "reference"?: like an answer, "metadata"?: {}, ...}

`prompt` says which answers belong to one question; without it that is the question. `messages` (docs/data.md) may stand
in the place of `question`. Further keys with a text, number or truth value break results down. Audio paths count from
the file. A fault is a DataError that names file and line.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, final

import fsspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wavalign.errors import DataError
from wavalign.plugins import audio
from wavalign.plugins.batch import AudioClip, Dialogue, Message
from wavalign.plugins.dialogues import flaws
from wavalign.storage import strict_json

HINT = '{"prompt": "p1", "question": {"audio": "q.wav"}, "answer": {"text": "...", "audio": "a.wav"}, "scores": [4, 5]}'
Kind = str | float | bool


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


@final
class _Said(_Entry):
    text: str = ""
    audio: str | None = Field(default=None, min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, value: object) -> object:
        return {"text": value} if isinstance(value, str) else value


@final
class _Turn(_Entry):
    role: Literal["system", "user", "assistant"]
    text: str = ""
    audio: str | None = Field(default=None, min_length=1)


@final
class _Row(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    id: str | None = None
    prompt: str | None = Field(default=None, min_length=1)
    question: _Said | None = None
    messages: list[_Turn] | None = Field(default=None, min_length=1)
    answer: _Said
    scores: list[float] | dict[str, float]
    reference: _Said | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _one_rater(cls, value: object) -> object:
        if isinstance(value, dict) and isinstance(value.get("scores"), int | float | bool):
            return {**value, "scores": [value["scores"]]}
        return value

    @model_validator(mode="after")
    def _complete(self) -> "_Row":
        if (self.question is None) == (self.messages is None):
            raise ValueError("a row has a `question`, or `messages` in its place")
        if not self.scores:
            raise ValueError("scores: nobody gave one; take the row out")
        for key, value in (self.model_extra or {}).items():
            if value is not None and not isinstance(value, str | int | float | bool):
                raise ValueError(f"{key}: what breaks results down is a text, a number or a truth value")
        return self


@final
@dataclass(frozen=True, slots=True)
class Rated:
    """An answer with people's scores."""

    dialogue: Dialogue
    """What was asked; its target is the reference, where there is one."""
    answer: Message
    prompt: str
    scores: tuple[float, ...]
    """One of each rater."""
    kinds: Mapping[str, Kind]
    """What results may be broken down by."""
    seconds: float | None
    """Of the answer's sound; None where it has none."""

    @property
    def people(self) -> float:
        """The mean of the raters."""
        return sum(self.scores) / len(self.scores)

    @property
    def words(self) -> int | None:
        """Of the answer's text; None where it is sound alone."""
        text = self.answer.text.strip()
        return len(text.split()) if text or self.answer.audio is None else None


def read_ratings(url: str) -> list[Rated]:
    """All rows of the file at `url`, every sound of an answer looked at; raises DataError for the first bad one."""
    found, seen = list[Rated](), dict[str, int]()
    for number, text in _lines(url):
        where = f"{url}:{number}"
        rated = _rated(_row(text, where), number, url, where)
        if rated.dialogue.id in seen:
            message = f"{where}: id {rated.dialogue.id!r} was given on line {seen[rated.dialogue.id]} already"
            raise DataError(message, hint="give every answer its own id, or none an id")
        seen[rated.dialogue.id] = number
        found.append(rated)
    if not found:
        raise DataError(f"{url}: there is no answer in it", hint=f"one object a line: {HINT}")
    return found


def _lines(url: str) -> Iterator[tuple[int, bytes]]:
    try:
        with fsspec.open(audio.as_written(url) if "://" not in url else url, "rb", compression="infer") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{url}: the people's scores cannot be read: {error}", hint="check the path") from error


def _row(text: bytes, where: str) -> _Row:
    try:
        tree = strict_json.parse(text)
    except ValueError as error:
        raise DataError(f"{where}: no JSON: {error}", hint=f"one object a line: {HINT}") from error
    try:
        return _Row.model_validate(tree)
    except ValidationError as error:
        first, *more = error.errors(include_url=False, include_context=False)
        place = ".".join(map(str, first["loc"]))
        count = f" (and {len(more)} more)" if more else ""
        said = f"{place}: {first['msg']}" if place else first["msg"]
        raise DataError(f"{where}: {said}{count}", hint=f"one object a line: {HINT}") from error


def _rated(row: _Row, number: int, url: str, where: str) -> Rated:
    turns: Sequence[_Turn] = row.messages if row.messages is not None else ()
    messages = [Message(each.role, each.text, _clip(each.audio, url)) for each in turns]
    if row.question is not None:
        messages = [_message("user", row.question, url)]
    kinds = {key: value for key, value in (row.model_extra or {}).items() if value is not None}
    target = None if row.reference is None else _message("assistant", row.reference, url)
    name = row.id if row.id is not None else f"line-{number}"
    known = {"reference": target.text} if target is not None and target.text else {}
    dialogue = Dialogue(name, tuple(messages), target, {**known, **row.metadata, **kinds}, origin=where)
    answer = _message("assistant", row.answer, url)
    if wrong := flaws(dialogue):
        raise DataError(f"{where}: {wrong[0]}", hint="correct the row or take it out")
    scores = row.scores.values() if isinstance(row.scores, dict) else row.scores
    prompt = row.prompt if row.prompt is not None else _name(messages)
    return Rated(dialogue, answer, prompt, tuple(scores), kinds, _seconds(answer, where))


def _message(role: str, said: _Said, url: str) -> Message:
    return Message(role, said.text, _clip(said.audio, url))


def _clip(path: str | None, url: str) -> AudioClip | None:
    """`path` counted from the folder of `url`."""
    if path is None:
        return None
    if "://" in path or path.startswith("/"):
        return AudioClip(path)
    scheme, mark, rest = url.rpartition("://")
    return AudioClip(f"{scheme}{mark}{PurePosixPath(rest).parent / path}")


def _name(messages: Sequence[Message]) -> str:
    """A name of what is asked, the same for the same words and files."""
    said = [(each.role, each.text, None if each.audio is None else each.audio.url) for each in messages]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def _seconds(answer: Message, where: str) -> float | None:
    if answer.audio is None:
        return None
    try:
        return audio.read(answer.audio, sample_rate=None).seconds
    except DataError as error:
        raise DataError(f"{where}: answer.audio: {error.message}", hint=error.hint) from error
