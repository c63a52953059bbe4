"""Dialogues from JSONL files, anywhere fsspec reaches.

One object a line: `{"id"?, "messages": [{"role", "text", "audio"?}], "target"?: {"text", "audio"?}, "metadata"?: {}}`;
audio paths count from the file. The files are checked whole when they are opened, a stream line by line as it is read
(`plugins.data.records`). `.jsonl.gz` is unpacked on the way.
"""

from typing import Literal, final

from pydantic import model_validator

from wavalign.plugins.data.dialogue_format import RecordLayout
from wavalign.plugins.data.tables.files import Shard, find_files
from wavalign.plugins.data.tables.layout import Layout
from wavalign.plugins.data.tables.readers import LINES
from wavalign.plugins.data.tables.source import FileParams, FileSource


@final
class JsonlParams(FileParams):
    """Which files, whether they are streamed, and what becomes of bad records."""

    on_bad: Literal["error", "drop"] = "error"
    """`drop` leaves bad records out and says how many; a line that is no JSON stays an error."""

    @model_validator(mode="after")
    def _countable(self) -> "JsonlParams":
        if self.streaming and self.on_bad == "drop":
            raise ValueError("a stream cannot say beforehand how many bad records it drops: take them out of the file")
        return self


@final
class Jsonl(FileSource):
    """The records of the files, in their order."""

    Params = JsonlParams
    params: JsonlParams

    def files(self) -> list[Shard]:
        return find_files(self.params.path, LINES)

    def layout(self) -> Layout:
        return RecordLayout(drop_bad=self.params.on_bad == "drop")
