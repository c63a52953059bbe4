"""The JSONL format of dialogues, read strictly.

One object a line: `{"id"?, "messages": [{"role", "text", "audio"?}], "target"?: {"text", "audio"?}, "metadata"?: {}}`.
A message and a target have text, sound or both; one with sound alone may leave `text` out.
`audio` is a path relative to the file, an absolute path or any fsspec URL; sound is read when it is needed. `codes`, a
list of flat codec ids, stands for the sound wherever tokens are asked for; `audio` beside it is for listening.
A pair has `chosen` and `rejected` in the place of `target`, each `{"text"?, "audio"?, "codes"?, "score"?}`; one of them
alone is an answer that is desirable or undesirable by itself.
"""

from typing import Any, Literal, final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wavalign.plugins.batch import Dialogue, Message
from wavalign.plugins.data.tables.files import find_files
from wavalign.plugins.data.tables.layout import Complaints, Layout, clip_of, complaints
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
    codes: list[int] | None = Field(default=None, min_length=1)


@final
class _Target(_Entry):
    text: str = ""
    audio: str | None = Field(default=None, min_length=1)
    codes: list[int] | None = Field(default=None, min_length=1)


@final
class _Side(_Entry):
    text: str = ""
    audio: str | None = Field(default=None, min_length=1)
    codes: list[int] | None = Field(default=None, min_length=1)
    score: float | None = None


@final
class _Record(_Entry):
    id: str | None = None
    messages: list[_Message] = Field(min_length=1)
    target: _Target | None = None
    chosen: _Side | None = None
    rejected: _Side | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_way(self) -> "_Record":
        if self.target is not None and (self.chosen or self.rejected):
            raise ValueError("a record has a `target`, or a `chosen` and a `rejected` side")
        return self


@final
class RecordLayout(Layout):
    """Rows that are records of this format."""

    structure = ("messages", "target", "id", "metadata", "chosen", "rejected")

    def __init__(self, hint: str = HINT, audio_root: str | None = None, *, drop_bad: bool = False) -> None:
        self._hint, self._root, self.drops_bad = hint, audio_root, drop_bad

    def dialogue(self, tree: Any, *, name: str, url: str) -> Dialogue | Complaints | None:
        try:
            record = _Record.model_validate(tree)
        except ValidationError as error:
            return None if self.drops_bad else complaints(error, self._hint)
        sides = [(member, side) for member, side in enumerate((record.chosen, record.rejected)) if side is not None]
        return Dialogue(
            id=record.id if record.id is not None else name,
            messages=tuple(
                Message(each.role, each.text, clip_of(each.audio, each.codes, url, self._root))
                for each in record.messages
            ),
            target=None if record.target is None else self._answer(record.target, url),
            metadata=record.metadata,
            targets=tuple(self._answer(side, url) for _, side in sides),
            members=tuple(member for member, _ in sides),
            scores=tuple(side.score for _, side in sides) if any(side.score is not None for _, side in sides) else (),
        )

    def _answer(self, found: "_Target | _Side", url: str) -> Message:
        return Message("assistant", found.text, clip_of(found.audio, found.codes, url, self._root))


def read_records(url: str) -> list[Dialogue]:
    """All dialogues of the file at `url`; raises DataError with file and line for the first bad one."""
    return load(find_files(url, LINES), RecordLayout())[0]
