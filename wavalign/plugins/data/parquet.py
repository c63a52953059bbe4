"""Dialogues from Parquet files, anywhere fsspec reaches (`hf://datasets/USER/NAME/data/train-*.parquet` included).

`columns` says which column holds what; without it the columns are those of the JSONL format: `messages`, `target`, `id`
and `metadata`. Sound is a path (counted from the file, or from `audio_root`), the bytes of a sound file, or the
structure {bytes, path} of Hugging Face's Audio; what lies inside the file is read cell by cell when it is needed.
"""

from typing import final

from wavalign.plugins.data.tables.columns import ColumnNames, table_layout
from wavalign.plugins.data.tables.files import Shard, find_files
from wavalign.plugins.data.tables.layout import Layout
from wavalign.plugins.data.tables.source import FileParams, FileSource
from wavalign.schema.base import RecipePath


@final
class ParquetParams(FileParams):
    """Which files, and what their columns mean."""

    columns: ColumnNames | None = None
    """What each column means, e.g. {text: question, audio: question_audio, target_text: answer}."""
    audio_root: RecipePath | None = None
    """Folder that relative audio paths count from; without it the folder of the file."""


@final
class Parquet(FileSource):
    """The rows of the files, in their order."""

    Params = ParquetParams
    params: ParquetParams

    def files(self) -> list[Shard]:
        return find_files(self.params.path, (".parquet",))

    def layout(self) -> Layout:
        return table_layout(self.params.columns, self.params.audio_root)
