"""Rows whose columns are mapped to a dialogue of one question and one answer."""

from collections.abc import Mapping
from typing import Any, final

from pydantic import Field, model_validator

from wavalign.plugins.batch import Dialogue, Message
from wavalign.plugins.data.dialogue_format import RecordLayout
from wavalign.plugins.data.tables.layout import Complaints, Layout, clip
from wavalign.schema.base import Section

_TEXTS = ("id", "system", "text", "target_text")
_SOUNDS = ("audio", "target_audio")
STRUCTURE_HINT = (
    "without `columns` a table has the columns messages, target, id and metadata of the JSONL format, no other"
)


@final
class ColumnNames(Section):
    """Which column holds what; a column that is not named is not read."""

    id: str | None = None
    """Name of the record; without it the number of its row."""
    system: str | None = None
    """A message of the system before the question."""
    text: str | None = None
    """What the user writes; beside `audio` what is said there."""
    audio: str | None = None
    """What the user says: a path, the bytes of a sound file, or {bytes, path}."""
    target_text: str | None = None
    """The answer to imitate."""
    target_audio: str | None = None
    """The same, spoken."""
    metadata: Mapping[str, str] = Field(default_factory=dict)
    """Further columns by the name rewards and metrics know them under, e.g. {answer: short_answer}."""

    @model_validator(mode="after")
    def _question(self) -> "ColumnNames":
        if self.text is None and self.audio is None:
            raise ValueError("name the column of the question: text, audio or both")
        return self


@final
class ColumnLayout(Layout):
    """Rows read by `ColumnNames`."""

    def __init__(self, names: ColumnNames, audio_root: str | None) -> None:
        self._names, self._root = names, audio_root
        self._places = {key: name for key in (*_TEXTS, *_SOUNDS) if (name := _name(names, key)) is not None}
        self.columns = list(dict.fromkeys([*self._places.values(), *names.metadata.values()]))

    def dialogue(self, tree: Any, *, name: str, url: str) -> Dialogue | Complaints | None:
        if not isinstance(tree, Mapping):
            return Complaints(("not an object with columns",), "one object a row")
        values = {key: tree.get(column) for key, column in self._places.items()}
        wrong = [
            f"column {self._places[key]!r} holds {type(value).__name__}, and {key} is text"
            for key, value in values.items()
            if not (value is None or isinstance(value, str) or (key == "id" and isinstance(value, int)))
        ]
        metadata = {key: tree.get(column) for key, column in self._names.metadata.items()}
        wrong += [
            f"column {self._names.metadata[key]!r} holds {type(value).__name__}, and metadata is plain JSON"
            for key, value in metadata.items()
            if not isinstance(value, str | int | float | list | dict | None)
        ]
        if not wrong and not values.get("text") and not values.get("audio"):
            wrong.append("the question has neither text nor sound")
        if wrong:
            return Complaints(tuple(wrong), "check `columns:`, or take the row out")
        return self._built(values, metadata, name, url)

    def _built(self, values: Mapping[str, Any], metadata: Mapping[str, Any], name: str, url: str) -> Dialogue:
        messages = [Message("system", values["system"])] if values.get("system") else []
        messages.append(Message("user", values.get("text") or "", clip(values.get("audio") or None, url, self._root)))
        text, audio = values.get("target_text"), values.get("target_audio") or None
        target = None
        if text is not None or audio is not None:
            target = Message("assistant", text or "", clip(audio, url, self._root))
        given = values.get("id")
        return Dialogue(name if given is None else str(given), tuple(messages), target, metadata)


def table_layout(names: ColumnNames | None, audio_root: str | None) -> Layout:
    """By column names, or, without them, by the structure of the JSONL format."""
    return RecordLayout(STRUCTURE_HINT, audio_root) if names is None else ColumnLayout(names, audio_root)


def _name(names: ColumnNames, key: str) -> str | None:
    value: str | None = names.model_dump()[key]
    return value
