"""Data sources: dialogues by index, or as a stream of shards."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

from wavalign.errors import DataError
from wavalign.plugins.api.base import Plugin
from wavalign.plugins.batch import Dialogue

StreamPosition = tuple[int, ...]
"""Where in a shard a record stands: whole numbers that mean something to its source; `()` is the beginning."""


@final
@dataclass(frozen=True, slots=True)
class StreamRecord:
    """A dialogue of a stream, where it stands and where reading goes on after it."""

    start: StreamPosition
    end: StreamPosition
    dialogue: Dialogue


class StreamSource(ABC):
    """Dialogues too many to index, in shards read from front to back. Stateless: the engine keeps the cursor.

    The engine permutes the shards of every epoch and draws from a buffer of `shuffle_buffer` records.
    """

    shuffle_buffer: int

    @abstractmethod
    def shards(self) -> Sequence[str]:
        """A name for each shard, in a fixed order, that changes when its size does: a resume compares them."""

    @abstractmethod
    def open(self, shard: int, position: StreamPosition) -> Iterator[StreamRecord]:
        """Records of a shard from `position` on; raises DataError with file and line at the first bad one."""


class DataSource(Plugin):
    """Dialogues by index. Runtime: `seed: int`. The engine shuffles, repeats and keeps the cursor.

    Where `stream` gives something, the engine reads that and asks for no index.
    """

    kind = "data"

    def __init__(self, params: Any, *, seed: int) -> None:
        self.params, self.seed = params, seed

    @abstractmethod
    def prepare(self, progress: Callable[[str, int, int], None]) -> None:
        """Build or open what `record` reads; called once, on one rank first. `progress(what, done, total)`."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of records, after `prepare`."""

    @abstractmethod
    def record(self, index: int) -> Dialogue:
        """Record `index`; raises DataError with file and line when it is bad."""

    def stream(self) -> StreamSource | None:
        """The records one after the other, after `prepare`, where they are too many to index; None for by index."""
        return None

    def reads(self) -> Sequence[str]:
        """Paths or URLs of the files that hold the records, after `prepare`: a resume refuses ones that have changed.

        Of a source that names none the records themselves are compared.
        """
        return ()

    def inspect(self) -> Iterator[tuple[str, Dialogue | DataError | None]]:
        """Every record in order with where it stands, a bad one as its error, None where Params say to drop it.

        For looking at data: comes instead of `prepare`, and goes on after an error where that is possible.
        """
        self.prepare(_unwatched)
        for index in range(len(self)):
            try:
                found: Dialogue | DataError = self.record(index)
            except DataError as error:
                found = error
            yield f"record {index}", found


def _unwatched(what: str, done: int, total: int) -> None:
    """Progress nobody watches."""
