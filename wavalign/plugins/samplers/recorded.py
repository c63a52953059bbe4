"""Steps that are recorded once and replayed, as an accelerator wants them.

A step of few rows is hundreds of small operations, and launching them from Python takes many times as long as their
arithmetic. Their launches are recorded once and replayed as one (CUDA graphs). What is replayed reads and writes the
very tensors it was recorded over, and knows of Python what Python knew then. So batches are held in buckets: rows and
slots are rounded up, those too many are copies of a row and hidden by a mask, and everything that changes from step to
step is read from tensors. A step is recorded for every bucket of rows and phase of the state, when it comes for the
second time; the first time warms up what the libraries set up lazily.

Buckets stay from call to call, within a limit, as long as the weights lie where they lay: an update in place needs no
new recording. Every bucket of rows is the beginning of the same tensors.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol, final

import torch
from torch import Tensor

from wavalign.plugins.api import Buffers
from wavalign.plugins.samplers.batch import Batch

SLOTS = 128
"""Attention looks at a multiple of so many slots."""
MOST_KEPT = 1024
"""Likeliest ids that nucleus sampling looks at in a recorded step."""
LOOK_EVERY = 8
"""Steps between looks at which rows are finished."""
APPENDED = "slots"
"""How names of tensors begin that a step only appends to."""


class Recorded(Protocol):
    """A step that can be run again."""

    def replay(self) -> None:
        """Run it."""


class Recorder(Protocol):
    """Records steps."""

    def record(self, batch: Batch) -> Recorded:
        """Record the tensors' part of the coming step of `batch`, without running it."""

    def nbytes(self) -> int:
        """Memory that recordings hold beside the tensors they were given."""


@final
class CudaRecorder:
    """CUDA graphs that share one pool of memory; all of it is free between two replays."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream, self._pool, self._bytes = stream, torch.cuda.graph_pool_handle(), 0

    def record(self, batch: Batch) -> Recorded:
        """Record the tensors' part of the coming step of `batch`, without running it."""
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved(self._stream.device)
        graph = torch.cuda.CUDAGraph()
        # Other threads may be scoring or loading on the same device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            batch.step()
        self._bytes += max(0, torch.cuda.memory_reserved(self._stream.device) - before)
        return graph

    def nbytes(self) -> int:
        """Memory that recordings hold beside the tensors they were given."""
        return self._bytes


@final
@dataclass(slots=True)
class Place:
    """Tensors that stay where they are, and what was recorded over them."""

    rows: Buffers
    """Of the state, for the largest bucket; smaller ones are their beginnings."""
    transcript: Buffers
    """Rows of the transcript, alike."""
    shared: tuple[Buffers, ...]
    """What the rows share: of the state, of the transcript, and the heads."""
    recorder: Recorder | None
    """None records nothing."""
    recorded: dict[Hashable, Recorded | None] = field(default_factory=dict)
    """By bucket of rows and phase; None where it came once."""

    def nbytes(self) -> int:
        """Memory that stays taken."""
        tensors = sum(each.nbytes for each in (self.rows, self.transcript, *self.shared))
        return tensors + (0 if self.recorder is None else self.recorder.nbytes())


@final
class Places:
    """Places by what was recorded there, the latest used last, as many as `limit` bytes hold between two calls."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._places: dict[Hashable, Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    def take(self, key: Hashable) -> Place | None:
        """The place of `key`, which now belongs to the caller."""
        return self._places.pop(key, None)

    def put(self, key: Hashable, place: Place) -> None:
        """Keep `place` for `key` and drop the longest unused ones that are too many."""
        self._places[key] = place
        while sum(each.nbytes() for each in self._places.values()) > self._limit:
            del self._places[next(iter(self._places))]


@final
class BucketSteps:
    """Steps over buckets of rows; `close` keeps what was recorded."""

    def __init__(self, places: Places, buckets: "Buckets", *, key: Hashable) -> None:
        """`key`: what a recording depends on beside the batch."""
        self._places, self._recorder, self._key, self.every = places, buckets.recorder, key, buckets.every
        self._place: tuple[Hashable, Place] | None = None
        self._rows = 0
        self._before: Snapshot | None = None

    def step(self, batch: Batch) -> None:
        """Run one step; the first as it stands, for the prompts have left its states."""
        if self._place is None:
            batch.step(wide=True)
            batch.advance()
            self._settle(batch)
            return
        place = self._place[1]
        key = (self._rows, batch.phase())
        recorded = place.recorded.get(key)
        if recorded is None and place.recorder is not None and key in place.recorded:
            recorded = place.recorded[key] = place.recorder.record(batch)
        if recorded is None:
            batch.step()
            place.recorded[key] = None
        else:
            recorded.replay()
        batch.advance()

    def look(self, batch: Batch) -> None:
        """Draw again, as widely as it takes, where nucleus sampling did not look far enough."""
        if self._before is not None and batch.transcript.fell_short():
            count = batch.transcript.steps - self._before.steps
            self._before.restore(batch)
            for _ in range(count):
                batch.step(wide=True)
                batch.advance()
        batch.transcript.flush()
        self._remember(batch)

    def keep(self, batch: Batch, rows: Tensor) -> None:
        """Go on with `rows` (indices) only, in a smaller bucket if they fit there."""
        if bucket(len(rows)) < self._rows:
            batch.transcript.leave(rows)
            self._enter(batch, rows)

    def close(self) -> None:
        """Keep the place for a later call."""
        if self._place is not None:
            self._places.put(*self._place)
            self._place = None

    def _settle(self, batch: Batch) -> None:
        """Take the place of an equal batch before this one, or make one of the tensors of this."""
        assert batch.static is not None
        state, transcript = batch.static, batch.transcript
        rows = torch.arange(transcript.live, device=transcript.members.device)
        most = bucket(len(rows))
        key = (self._key, most, batch.constants())
        place = self._places.take(key)
        if place is None:
            self._rows, filled = most, _filled(rows, most)
            state.rows.select(filled)
            transcript.rows.select(filled)
            shared = (state.shared, transcript.shared, batch.heads.shared)
            place = Place(
                state.rows.first(), transcript.rows.first(), tuple(x.first() for x in shared), self._recorder()
            )
        else:
            own = (state.shared, transcript.shared, batch.heads.shared)
            for mine, theirs in zip(own, place.shared, strict=True):
                mine.move_into(theirs)
        self._place = key, place
        self._enter(batch, rows)

    def _enter(self, batch: Batch, rows: Tensor) -> None:
        """Move `rows` (indices) of `batch` into their bucket, filled up with copies of the first of them."""
        assert batch.static is not None and self._place is not None
        place, self._rows = self._place[1], bucket(len(rows))
        filled = _filled(rows, self._rows)
        batch.static.rows.move_into(place.rows.first(self._rows), filled)
        batch.transcript.rows.move_into(place.transcript.first(self._rows), filled)
        self._remember(batch)

    def _remember(self, batch: Batch) -> None:
        """Note where to begin again if need be."""
        if any(drawer.may_fall_short for drawer in batch.drawers):
            self._before = Snapshot(batch)


@final
class Snapshot:
    """What a step changes and the next one reads, apart from tensors that are only ever appended to."""

    def __init__(self, batch: Batch) -> None:
        assert batch.static is not None
        state, transcript = batch.static, batch.transcript
        self.steps, self._host = transcript.steps, state.host
        self._tensors = state.rows.copy(but=APPENDED), state.shared.copy(only="known"), transcript.shared.copy()

    def restore(self, batch: Batch) -> None:
        """Put `batch` back to where it was."""
        assert batch.static is not None
        state, transcript = batch.static, batch.transcript
        for buffers, copies in zip((state.rows, state.shared, transcript.shared), self._tensors, strict=True):
            buffers.restore(copies)
        state.host, transcript.host = self._host, self.steps


def _filled(rows: Tensor, count: int) -> Tensor:
    """`rows` (indices), and the first of them as often as it takes to be `count`."""
    return torch.cat([rows, rows[:1].expand(count - len(rows))])


@final
@dataclass(frozen=True, slots=True)
class Buckets:
    """How a device wants its batches."""

    slots: int
    """Attention looks at a multiple of so many slots; 1: rows and slots are just those that there are."""
    every: int
    """Steps between looks at which rows are finished: on an accelerator to look is to wait for it."""
    most: int
    """Likeliest ids that nucleus sampling looks at without waiting; 0: as many as it takes."""
    recorder: Callable[[], Recorder | None]
    context: Callable[[], AbstractContextManager[None]] = nullcontext
    """What sampling runs in."""


NO_BUCKETS = Buckets(slots=1, every=1, most=0, recorder=lambda: None)
"""For processors, and for states that cannot be recorded."""


def buckets_for(device: torch.device, *, record: bool) -> Buckets:
    """What `device` wants; `record` where it can."""
    if device.type != "cuda":
        return NO_BUCKETS
    stream = _stream(device)
    return Buckets(
        slots=SLOTS,
        every=LOOK_EVERY,
        most=MOST_KEPT,
        recorder=lambda: CudaRecorder(stream) if record else None,
        context=lambda: _beside(stream),
    )


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of `device` that samples: what was recorded on it is replayed there."""
    return torch.cuda.Stream(device)


@contextmanager
def _beside(stream: torch.cuda.Stream) -> Iterator[None]:
    """Run on `stream`, behind what the present one was given and before what it will be.

    Autocast keeps no converted weights meanwhile: a recording would read them when they are gone.
    """
    keeps = torch.is_autocast_cache_enabled()
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    torch.set_autocast_cache_enabled(False)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        torch.set_autocast_cache_enabled(keeps)
        torch.cuda.current_stream(stream.device).wait_stream(stream)


def bucket(rows: int) -> int:
    """Rows that are computed for `rows` of them: a power of 2 up to 8, then a multiple of 8 or of an eighth."""
    power = 1 << (rows - 1).bit_length()
    step = power if power <= 8 else max(8, power // 8)
    return -(-rows // step) * step
