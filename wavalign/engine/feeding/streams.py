"""A stream in an order of its own, and its place to the record.

Every epoch permutes the shards and shows every record once: records enter a buffer in the order of the shards, and each
draw takes one of the buffer at random. The place is (epoch, shard, place in it, places of what the buffer holds):
nothing but the buffer has to be read again. Every draw has a generator of its own: nothing else has to be remembered.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import torch

from wavalign.engine.state.seeds import generator
from wavalign.errors import DataError
from wavalign.plugins.api import Place, Placed, StreamSource
from wavalign.plugins.batch import Dialogue
from wavalign.redaction import REDACTOR


@final
class ShuffledStream:
    """One stream of a heading; endless."""

    def __init__(self, source: StreamSource, *, seed: int, which: int) -> None:
        """Raise DataError when there is no first record; `which` tells the streams of a heading apart."""
        self.source, self._names = source, list(source.shards())
        self._key = (seed, "stream", which)
        self._epoch = self._drawn = 0
        self._buffer: list[tuple[int, Placed]] = []
        self._place: Place = ()
        """In the shard whose turn it is."""
        self._reading: Iterator[Placed] | None = None
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
        """Every dialogue once, in the order of the shards; the place stays where it is."""
        for shard in range(len(self._names)):
            for placed in self.source.open(shard, ()):
                yield placed.dialogue

    def state_dict(self) -> dict[str, Any]:
        """The place in the stream."""
        return {
            "shards": list(self._names),
            "epoch": self._epoch,
            "drawn": self._drawn,
            "turn": self._turn,
            "place": list(self._place),
            "buffer": [[shard, *placed.start] for shard, placed in self._buffer],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a place; DataError when the files have changed since."""
        if state["shards"] != REDACTOR.tree(self._names):  # as a checkpoint holds them
            gone = [name for name in state["shards"] if name not in self._names]
            new = [name for name in self._names if name not in state["shards"]]
            message = f"the files of a stream have changed: gone {gone}, new {new} (name:bytes)"
            raise DataError(message, hint="resume on the same data")
        self._begin_epoch(int(state["epoch"]))
        self._drawn, self._turn, self._place = int(state["drawn"]), int(state["turn"]), tuple(state["place"])
        wanted = [(int(shard), tuple(place)) for shard, *place in state["buffer"]]
        found = self._read_again(wanted)
        self._buffer = [(shard, found[shard, place]) for shard, place in wanted]

    def _begin_epoch(self, epoch: int) -> None:
        self._epoch, self._turn, self._buffer = epoch, 0, []
        self._place, self._reading = (), None
        rng = generator(*self._key, "shards", epoch)
        self._order: Sequence[int] = torch.randperm(len(self._names), generator=rng).tolist()

    def _fill(self) -> None:
        """Read on until the buffer is full or the epoch at its end."""
        while len(self._buffer) < self.source.shuffle_buffer and self._turn < len(self._order):
            if self._reading is None:
                self._reading = self.source.open(self._order[self._turn], self._place)
            try:
                placed = next(self._reading, None)
            except DataError:
                self._reading = None  # asked again it is the same error, not the end of the shard
                raise
            if placed is None:
                self._turn, self._place, self._reading = self._turn + 1, (), None
            else:
                self._place = placed.end
                self._buffer.append((self._order[self._turn], placed))

    def _read_again(self, wanted: Sequence[tuple[int, Place]]) -> dict[tuple[int, Place], Placed]:
        """The records at these places, each shard gone through once from the first of them to the last."""
        found: dict[tuple[int, Place], Placed] = {}
        for shard in sorted({shard for shard, _ in wanted}):
            places = {place for each, place in wanted if each == shard}
            for placed in self.source.open(shard, min(places)):
                if placed.start in places:
                    found[shard, placed.start] = placed
                if placed.start >= max(places):
                    break
            if len({place for each, place in found if each == shard}) < len(places):
                message = f"{self._names[shard]}: records that were being shown are not there any more"
                raise DataError(message, hint="resume on the same data")
        return found
