"""The JSONL format of dialogues, read strictly.

One object a line: `{"id"?, "messages": [{"role", "text", "audio"?}], "target"?: {"text", "audio"?}, "metadata"?: {}}`.
A message and a target have text, sound or both; one with sound alone may leave `text` out.
`audio` is a path relative to the file, an absolute path or any fsspec URL; sound is read when it is needed.
"""

from typing import Any, Literal, final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wavalign.plugins.batch import Dialogue, Message
from wavalign.plugins.data.tables.files import find_files
from wavalign.plugins.data.tables.layout import Complaints, Layout, clip, complaints
from wavalign.plugins.data.tables.readers import LINES
from wavalign.plugins.data.tables.source import load

HINT = 'one object a line: {"messages": [{"role": "user", "text": "...", "audio": "a.wav"}], "target": {"text": "..."}}'


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


@final
class _Message(_Entry):
    role: Literal["system", "user", "assistant"]
    text: str = ""
    audio: str | None = Field(default=None, min_length=1)


@final
class _Target(_Entry):
    text: str = ""
    audio: str | None = Field(default=None, min_length=1)


@final
class _Record(_Entry):
    id: str | None = None
    messages: list[_Message] = Field(min_length=1)
    target: _Target | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


@final
class RecordLayout(Layout):
    """Rows that are records of this format."""

    structure = ("messages", "target", "id", "metadata")

    def __init__(self, hint: str = HINT, audio_root: str | None = None, *, drop_bad: bool = False) -> None:
        self._hint, self._root, self.drops_bad = hint, audio_root, drop_bad

    def dialogue(self, tree: Any, *, name: str, url: str) -> Dialogue | Complaints | None:
        try:
            record = _Record.model_validate(tree)
        except ValidationError as error:
            return None if self.drops_bad else complaints(error, self._hint)
        target = record.target
        return Dialogue(
            id=record.id if record.id is not None else name,
            messages=tuple(
                Message(each.role, each.text, clip(each.audio, url, self._root)) for each in record.messages
            ),
            target=Message("assistant", target.text, clip(target.audio, url, self._root))
            if target is not None
            else None,
            metadata=record.metadata,
        )


def read_records(url: str) -> list[Dialogue]:
    """All dialogues of the file at `url`; raises DataError with file and line for the first bad one."""
    return load(find_files(url, LINES), RecordLayout())[0]
