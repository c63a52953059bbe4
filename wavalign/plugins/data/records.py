"""The JSONL format of dialogues, read strictly.

One object a line: `{"id"?, "messages": [{"role", "text", "audio"?}], "target"?: {"text", "audio"?}, "metadata"?: {}}`.
`audio` is a path relative to the file, an absolute path or any fsspec URL; sound is read when it is needed.
"""

import json
from pathlib import PurePosixPath
from typing import Any, Literal, final

import fsspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wavalign.errors import DataError
from wavalign.plugins.batch import AudioClip, Dialogue, Message

HINT = 'one object a line: {"messages": [{"role": "user", "text": "...", "audio": "a.wav"}], "target": {"text": "..."}}'


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


@final
class _Message(_Entry):
    role: Literal["system", "user", "assistant"]
    text: str
    audio: str | None = Field(default=None, min_length=1)


@final
class _Target(_Entry):
    text: str
    audio: str | None = Field(default=None, min_length=1)


@final
class _Record(_Entry):
    id: str | None = None
    messages: list[_Message] = Field(min_length=1)
    target: _Target | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


def read_records(url: str) -> list[Dialogue]:
    """All dialogues of the file at `url`; raises DataError with file and line for the first bad one."""
    try:
        with fsspec.open(url, "rb") as file:
            content: bytes = file.read()
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{url}: the data file cannot be opened: {error}", hint="check the path") from error
    rows = content.split(b"\n")
    if rows[-1] == b"":
        rows.pop()
    if not rows:
        raise DataError(f"{url}: the data file is empty", hint=HINT)
    dialogues: list[Dialogue] = []
    lines: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        dialogue = _dialogue(row, url, number)
        if dialogue.id in lines:
            message = f"{url}:{number}: id {dialogue.id!r} was given on line {lines[dialogue.id]} already"
            raise DataError(message, hint="give every record its own id, or none an id")
        lines[dialogue.id] = number
        dialogues.append(dialogue)
    return dialogues


def _dialogue(row: bytes, url: str, number: int) -> Dialogue:
    where = f"{url}:{number}"
    try:
        tree = json.loads(row.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8: {error}", hint="save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        hint = f"the line may be cut short or empty; {HINT}"
        raise DataError(f"{where}: not a JSON object: {error}", hint=hint) from error
    try:
        record = _Record.model_validate(tree)
    except ValidationError as error:
        raise DataError(f"{where}: {_first(error)}", hint=HINT) from error
    messages = tuple(Message(each.role, each.text, _clip(each.audio, url)) for each in record.messages)
    target = record.target
    return Dialogue(
        id=record.id if record.id is not None else f"line-{number}",
        messages=messages,
        target=Message("assistant", target.text, _clip(target.audio, url)) if target is not None else None,
        metadata=record.metadata,
    )


def _first(error: ValidationError) -> str:
    """The first complaint as `messages.0.role: ...`, with the number of further ones."""
    complaints = error.errors(include_url=False, include_context=False)
    place = ".".join(str(part) for part in complaints[0]["loc"])
    more = f" (and {len(complaints) - 1} more)" if len(complaints) > 1 else ""
    return f"{place}: {complaints[0]['msg']}{more}" if place else f"{complaints[0]['msg']}{more}"


def _clip(audio: str | None, url: str) -> AudioClip | None:
    """`audio` counted from the folder of `url`."""
    if audio is None:
        return None
    if "://" in audio or audio.startswith("/"):
        return AudioClip(audio)
    scheme, mark, path = url.rpartition("://")
    return AudioClip(f"{scheme}{mark}{PurePosixPath(path).parent / audio}")
