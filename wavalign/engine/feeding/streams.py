"""A shuffled stream with a cursor that is exact to the record.

Every epoch permutes the shards and shows every record once: records enter a buffer in the order of the shards, and each
draw takes one of the buffer at random. The cursor is (epoch, shard, position in it, positions of what the buffer
holds): nothing but the buffer has to be read again. Every draw has a generator of its own: nothing else is remembered.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import torch

from wavalign.engine.state.seeds import generator
from wavalign.errors import DataError
from wavalign.plugins.api import StreamPosition, StreamRecord, StreamSource
from wavalign.plugins.batch import Dialogue
from wavalign.redaction import REDACTOR

_Key = tuple[int, StreamPosition]
"""Shard, and position of a record in it."""


@final
class ShuffledStream:
    """One stream of a heading; endless."""

    def __init__(self, source: StreamSource, *, seed: int, which: int) -> None:
        """Raise DataError when there is no first record; `which` tells the streams of a heading apart."""
        self.source, self._names = source, list(source.shards())
        self._key = (seed, "stream", which)
        self._epoch = self._drawn = 0
        self._buffer: list[tuple[int, StreamRecord]] = []
        self._position: StreamPosition = ()
        """In the shard whose turn it is."""
        self._reading: Iterator[StreamRecord] | None = None
        self._begin_epoch(0)
        if next(self.once(), None) is None:
            raise DataError("a data source is empty", hint="check its path and what its options leave out")

    def next(self) -> Dialogue:
        """The next dialogue."""
        self._fill()
        if not self._buffer:
            self._begin_epoch(self._epoch + 1)
            self._fill()
        draw = torch.randint(len(self._buffer), (1,), generator=generator(*self._key, "draw", self._drawn))
        index = int(draw)
        self._drawn += 1
        self._buffer[index], self._buffer[-1] = self._buffer[-1], self._buffer[index]
        return self._buffer.pop()[1].dialogue

    def once(self) -> Iterator[Dialogue]:
        """Every dialogue once, in the order of the shards; the cursor stays where it is."""
        for shard in range(len(self._names)):
            for record in self.source.open(shard, ()):
                yield record.dialogue

    def state_dict(self) -> dict[str, Any]:
        """The cursor."""
        return {
            "shards": list(self._names),
            "epoch": self._epoch,
            "drawn": self._drawn,
            "turn": self._turn,
            "position": list(self._position),
            "buffer": [[shard, *record.start] for shard, record in self._buffer],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a cursor; DataError when the files have changed since."""
        if state["shards"] != REDACTOR.tree(self._names):  # as a checkpoint holds them
            gone = [name for name in state["shards"] if name not in self._names]
            new = [name for name in self._names if name not in state["shards"]]
            message = f"the files of a stream have changed: gone {gone}, new {new} (name:bytes)"
            raise DataError(message, hint="resume on the same data")
        self._begin_epoch(int(state["epoch"]))
        self._drawn, self._turn, self._position = int(state["drawn"]), int(state["turn"]), tuple(state["position"])
        wanted = [(int(shard), tuple(position)) for shard, *position in state["buffer"]]
        found = self._read_again(wanted)
        self._buffer = [(shard, found[shard, position]) for shard, position in wanted]

    def _begin_epoch(self, epoch: int) -> None:
        self._epoch, self._turn, self._buffer = epoch, 0, []
        self._position, self._reading = (), None
        rng = generator(*self._key, "shards", epoch)
        self._order: Sequence[int] = torch.randperm(len(self._names), generator=rng).tolist()

    def _fill(self) -> None:
        """Read on until the buffer is full or the epoch at its end."""
        while len(self._buffer) < self.source.shuffle_buffer and self._turn < len(self._order):
            if self._reading is None:
                self._reading = self.source.open(self._order[self._turn], self._position)
            try:
                record = next(self._reading, None)
            except DataError:
                self._reading = None  # asked again it is the same error, not the end of the shard
                raise
            if record is None:
                self._turn, self._position, self._reading = self._turn + 1, (), None
            else:
                self._position = record.end
                self._buffer.append((self._order[self._turn], record))

    def _read_again(self, wanted: Sequence[_Key]) -> dict[_Key, StreamRecord]:
        """The records at these positions, each shard gone through once from the first of them to the last."""
        found: dict[_Key, StreamRecord] = {}
        for shard in sorted({shard for shard, _ in wanted}):
            positions = {position for each, position in wanted if each == shard}
            for record in self.source.open(shard, min(positions)):
                if record.start in positions:
                    found[shard, record.start] = record
                if record.start >= max(positions):
                    break
            if len({position for each, position in found if each == shard}) < len(positions):
                message = f"{self._names[shard]}: records that were being shown are not there any more"
                raise DataError(message, hint="resume on the same data")
        return found
