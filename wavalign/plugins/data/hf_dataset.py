"""A Hugging Face dataset as a folder: one written by `save_to_disk`, or a copy of a repository of the hub.

A saved folder holds Arrow files, which are mapped into memory. A repository holds Parquet or JSON lines files: those of
a split are named by the `configs` of its README.md, or else by a part of their path (`train`, `test`, `validation`).
Columns and sound are read as by the source `parquet`; the package `datasets` is not needed. Any fsspec address of a
repository will do, e.g. `hf://datasets/USER/NAME`; a saved folder must lie on a disk of this machine.
"""

from typing import final

from wavalign.plugins.data.tables.columns import ColumnNames, table_layout
from wavalign.plugins.data.tables.files import Shard
from wavalign.plugins.data.tables.folders import dataset_files
from wavalign.plugins.data.tables.layout import Layout
from wavalign.plugins.data.tables.source import FileSource, ReadingParams
from wavalign.schema.base import RecipePath


@final
class HfDatasetParams(ReadingParams):
    """Which folder, which part of it, and what its columns mean."""

    path: RecipePath
    """The folder: a path or an fsspec URL."""
    split: str | None = None
    """Part of the dataset, e.g. `train`; may be left out where there is one."""
    config: str | None = None
    """Configuration of the dataset as its README.md names it; may be left out where there is one or a default."""
    columns: ColumnNames | None = None
    """What each column means, e.g. {text: question, audio: question_audio, target_text: answer}."""
    audio_root: RecipePath | None = None
    """Folder that relative audio paths count from; without it the folder of the file."""


@final
class HfDataset(FileSource):
    """The rows of one split, in their order."""

    Params = HfDatasetParams
    params: HfDatasetParams

    def files(self) -> list[Shard]:
        return dataset_files(self.params.path, split=self.params.split, config=self.params.config)

    def layout(self) -> Layout:
        return table_layout(self.params.columns, self.params.audio_root)
