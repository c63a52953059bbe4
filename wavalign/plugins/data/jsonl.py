"""Dialogues from JSONL files, anywhere fsspec reaches.

One object a line: `{"id"?, "messages": [{"role", "text", "audio"?}], "target"?: {"text", "audio"?}, "metadata"?: {}}`;
audio paths count from the file. The files are checked whole when they are opened, a stream line by line as it is read
(`plugins.data.records`). `.jsonl.gz` is unpacked on the way.
"""

from typing import final

from wavalign.plugins.data.records import RecordLayout
from wavalign.plugins.data.tables.files import Shard, find_files
from wavalign.plugins.data.tables.layout import Layout
from wavalign.plugins.data.tables.rows import LINES
from wavalign.plugins.data.tables.source import FileParams, FileSource


@final
class JsonlParams(FileParams):
    """Which files, and whether they are streamed."""


@final
class Jsonl(FileSource):
    """The records of the files, in their order."""

    Params = JsonlParams
    params: JsonlParams

    def files(self) -> list[Shard]:
        return find_files(self.params.path, LINES)

    def layout(self) -> Layout:
        return RecordLayout()
