"""Files as a source: read whole and checked when opened, or as a stream."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, final

from pydantic import Field

from wavalign.errors import DataError
from wavalign.plugins.api import DataSource, StreamPosition, StreamRecord, StreamSource
from wavalign.plugins.batch import Dialogue
from wavalign.plugins.data.tables.files import Shard
from wavalign.plugins.data.tables.layout import Complaints, Layout
from wavalign.plugins.data.tables.readers import Row, read_rows
from wavalign.plugins.dialogues import flaws
from wavalign.schema.base import Params, RecipePath


class ReadingParams(Params):
    """How files are gone through."""

    streaming: bool = False
    """Read as it goes instead of whole at the start: for more records than fit in memory."""
    shuffle_buffer: int = Field(default=1000, ge=1, le=10_000_000)
    """How many records of a stream are drawn from at a time; 1 keeps the order of the files."""


class FileParams(ReadingParams):
    """Which files, and how they are gone through."""

    path: RecipePath | Annotated[tuple[RecipePath, ...], Field(min_length=1, max_length=100_000)]
    """A file, a pattern with `*`, a folder or a list of these: paths or fsspec URLs."""


@final
class FileStream(StreamSource):
    """The rows of files as a stream."""

    def __init__(self, files: Sequence[Shard], layout: Layout, shuffle_buffer: int) -> None:
        self._files, self._layout, self.shuffle_buffer = files, layout, shuffle_buffer

    def shards(self) -> Sequence[str]:
        return [shard.label for shard in self._files]

    def open(self, shard: int, position: StreamPosition) -> Iterator[StreamRecord]:
        file = self._files[shard]
        for row in read_rows(file.url, position, self._layout.columns, structure=self._layout.structure):
            found = read_row(row, file, self._layout)
            if isinstance(found, Complaints):
                raise found.first(row.where)
            if found is not None:
                yield StreamRecord(row.start, row.end, found)


class FileSource(DataSource):
    """Base of the sources that read files."""

    params: ReadingParams

    def __init__(self, params: ReadingParams, *, seed: int) -> None:
        super().__init__(params, seed=seed)
        self._dialogues: list[Dialogue] = []
        self._shards: list[Shard] = []

    @abstractmethod
    def layout(self) -> Layout:
        """How rows are read."""

    @abstractmethod
    def files(self) -> list[Shard]:
        """The files; raises DataError where there are none."""

    def prepare(self, progress: Callable[[str, int, int], None]) -> None:
        """Find the files and, unless they are streamed, read and check every row; raises DataError."""
        self._shards = self.files()
        if self.params.streaming:
            return
        self._dialogues, dropped = load(self._shards, self.layout())
        total = len(self._dialogues) + dropped
        if dropped:
            progress(f"reading: {dropped} of {total} records left out, as the recipe says", total, total)
        else:
            progress("reading", total, total)

    def __len__(self) -> int:
        return len(self._dialogues)

    def record(self, index: int) -> Dialogue:
        return self._dialogues[index]

    def stream(self) -> StreamSource | None:
        return FileStream(self._shards, self.layout(), self.params.shuffle_buffer) if self.params.streaming else None

    def reads(self) -> list[str]:
        return [shard.url for shard in self._shards]

    def inspect(self) -> Iterator[tuple[str, Dialogue | DataError | None]]:
        layout = self.layout()
        for shard in self.files():
            try:
                rows = 0
                for row in read_rows(shard.url, (), layout.columns, structure=layout.structure):
                    rows += 1
                    found = read_row(row, shard, layout)
                    if isinstance(found, Complaints):
                        yield from ((row.where, error) for error in found.each(row.where))
                    else:
                        yield row.where, found
                if not rows and not self.params.streaming:
                    yield shard.url, _nothing_in(shard)
            except DataError as error:  # the file as a whole; the next may be fine
                yield shard.url, error


def read_row(row: Row, shard: Shard, layout: Layout) -> Dialogue | Complaints | None:
    """What a row is."""
    if isinstance(row.tree, Complaints):
        return row.tree
    found = layout.dialogue(row.tree, name=shard.row_name(row.name), url=shard.url)
    if isinstance(found, Dialogue):
        wrong = flaws(found)
        if wrong:
            return None if layout.drops_bad else Complaints(tuple(wrong), "correct the record or take it out")
        return replace(found, origin=row.where)
    return found


def _nothing_in(shard: Shard) -> DataError:
    return DataError(f"{shard.url}: the data file is empty", hint="write it again or take it out of the list")


def load(files: Sequence[Shard], layout: Layout) -> tuple[list[Dialogue], int]:
    """All dialogues of the files and how many rows were left out; raises DataError for the first bad row."""
    dialogues: list[Dialogue] = []
    places: dict[str, str] = {}
    dropped = 0
    for shard in files:
        before = len(dialogues) + dropped
        for row in read_rows(shard.url, (), layout.columns, structure=layout.structure):
            found = read_row(row, shard, layout)
            if isinstance(found, Complaints):
                raise found.first(row.where)
            if found is None:
                dropped += 1
                continue
            if found.id in places:
                message = f"{row.where}: id {found.id!r} was given {places[found.id]} already"
                raise DataError(message, hint="give every record its own id, or none an id")
            places[found.id] = f"on {row.name.replace('-', ' ')}" if len(files) == 1 else f"at {row.where}"
            dialogues.append(found)
        if len(dialogues) + dropped == before:
            raise _nothing_in(shard)
    return dialogues, dropped
