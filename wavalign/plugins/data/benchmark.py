"""Questions of spoken-dialogue benchmarks in the files they are published in: VoiceBench, UltraEval-Audio, VStyle.

Parquet, Arrow and JSON lines, anywhere fsspec reaches (`hf://datasets/hlt-lab/voicebench/mmsu/*.parquet` included);
files of the dialogue format (`messages`) as well. The suite is told by the columns of the first row, see
`tables.suites`. The correct answer, where the suite states one, is `answer` in the metadata; the row itself is kept
there under `benchmark`. There is no answer to imitate.
"""

from typing import Literal, final

from wavalign.plugins.data.tables.files import Shard, find_files
from wavalign.plugins.data.tables.layout import Layout
from wavalign.plugins.data.tables.readers import LINES, LISTS, TABLES
from wavalign.plugins.data.tables.source import FileParams, FileSource
from wavalign.plugins.data.tables.suites import Suite, SuiteLayout
from wavalign.schema.base import RecipePath


@final
class BenchmarkParams(FileParams):
    """Which files, and of which suite."""

    suite: Suite | None = None
    """Whose rows they are; null looks at the columns."""
    modality: Literal["audio", "text"] = "audio"
    """`audio` asks with the sound where a row has any, `text` with its words."""
    audio_root: RecipePath | None = None
    """Folder that relative audio paths count from; without it the folder of the file."""


@final
class Benchmark(FileSource):
    """The questions of the files, in their order."""

    Params = BenchmarkParams
    params: BenchmarkParams

    def files(self) -> list[Shard]:
        return find_files(self.params.path, (*LINES, *LISTS, *TABLES))

    def layout(self) -> Layout:
        return SuiteLayout(self.params.suite, modality=self.params.modality, audio_root=self.params.audio_root)
