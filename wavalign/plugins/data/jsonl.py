"""Dialogues from a JSONL file, anywhere fsspec reaches.

One object a line: `{"id"?, "messages": [{"role", "text", "audio"?}], "target"?: {"text", "audio"?}, "metadata"?: {}}`;
audio paths count from the file. The whole file is checked when it is opened (`plugins.data.records`).
"""

from collections.abc import Callable
from typing import final

from wavalign.plugins.api import DataSource
from wavalign.plugins.batch import Dialogue
from wavalign.plugins.data.records import read_records
from wavalign.schema.base import Params, RecipePath


@final
class JsonlParams(Params):
    """Which file."""

    path: RecipePath
    """The JSONL file: a path or an fsspec URL."""


@final
class Jsonl(DataSource):
    """The records of one file, in its order."""

    Params = JsonlParams
    params: JsonlParams

    def __init__(self, params: JsonlParams, *, seed: int) -> None:
        super().__init__(params, seed=seed)
        self._dialogues: list[Dialogue] = []

    def prepare(self, progress: Callable[[str, int, int], None]) -> None:
        """Read and check every line; raises DataError with file and line."""
        self._dialogues = read_records(self.params.path)
        progress("reading", len(self._dialogues), len(self._dialogues))

    def __len__(self) -> int:
        return len(self._dialogues)

    def record(self, index: int) -> Dialogue:
        return self._dialogues[index]
