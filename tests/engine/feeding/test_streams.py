"""Streams: every epoch shows everything once, an interruption anywhere changes nothing, and memory stays as it is."""

import json
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wavalign.engine.feeding.feeds import Feed
from wavalign.engine.feeding.streams import ShuffledStream
from wavalign.errors import DataError
from wavalign.plugins.api import DataSource, StreamPosition, StreamRecord, StreamSource
from wavalign.plugins.batch import Dialogue
from wavalign.plugins.data.jsonl import Jsonl, JsonlParams
from wavalign.schema.base import Params


@final
class Counted(StreamSource):
    """Shards of so many records each, `0-0`, `0-1`, ...; a position is twice the record's number."""

    def __init__(self, *sizes: int, shuffle_buffer: int = 4, bad: tuple[int, int] | None = None) -> None:
        self.sizes, self.shuffle_buffer, self.bad = sizes, shuffle_buffer, bad
        self.read = 0

    def shards(self) -> Sequence[str]:
        return [f"{index}:{size}" for index, size in enumerate(self.sizes)]

    def open(self, shard: int, position: StreamPosition) -> Iterator[StreamRecord]:
        for number in range(position[0] // 2 if position else 0, self.sizes[shard]):
            if (shard, number) == self.bad:
                raise DataError(f"{shard}.jsonl:{number + 1}: bad")
            self.read += 1
            yield StreamRecord((2 * number,), (2 * number + 2,), Dialogue(f"{shard}-{number}", ()))


@final
class Source(DataSource):
    """Numbers with an index, or a stream."""

    def __init__(self, count: int = 0, stream: StreamSource | None = None) -> None:
        super().__init__(Params(), seed=0)
        self.count, self._stream = count, stream

    def prepare(self, progress: Callable[[str, int, int], None]) -> None:
        return

    def __len__(self) -> int:
        assert self._stream is None, "a stream is not asked for its length"
        return self.count

    def record(self, index: int) -> Dialogue:
        return Dialogue(f"i-{index}", ())

    def stream(self) -> StreamSource | None:
        return self._stream


def drawn(feed: Feed, count: int) -> list[str]:
    return [each.id for each in feed.next(count)]


def through_json(state: dict[str, Any]) -> Any:
    """What a checkpoint makes of a state."""
    return json.loads(json.dumps(state))


def mixed(*sizes: int, shuffle_buffer: int = 4, seed: int = 5) -> Feed:
    """An index of three and a stream, one to two."""
    return Feed([(Source(3), 1.0), (Source(stream=Counted(*sizes, shuffle_buffer=shuffle_buffer)), 2.0)], seed=seed)


@pytest.mark.parametrize("shuffle_buffer", [1, 3, 100])
def test_every_epoch_shows_everything_once_in_an_order_of_its_own(shuffle_buffer: int) -> None:
    stream = ShuffledStream(Counted(5, 0, 4, 3, shuffle_buffer=shuffle_buffer), seed=1, which=0)
    epochs = [[stream.next().id for _ in range(12)] for _ in range(4)]
    everything = sorted(f"{shard}-{n}" for shard, size in enumerate((5, 0, 4, 3)) for n in range(size))
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_buffer_of_one_keeps_the_order_inside_a_shard() -> None:
    stream = ShuffledStream(Counted(5, 4, shuffle_buffer=1), seed=1, which=0)
    epoch = [stream.next().id for _ in range(9)]
    assert epoch in ([*_shard(0, 5), *_shard(1, 4)], [*_shard(1, 4), *_shard(0, 5)])


def _shard(shard: int, size: int) -> list[str]:
    return [f"{shard}-{number}" for number in range(size)]


def test_draws_from_a_full_buffer_are_independent() -> None:
    """Each has a random number of its own: about half of all neighbours come in the wrong order."""
    stream = ShuffledStream(Counted(1000, shuffle_buffer=50), seed=1, which=0)
    numbers = [int(stream.next().id[2:]) for _ in range(600)]
    assert 200 < sum(left > right for left, right in pairwise(numbers)) < 400


def test_the_buffer_is_all_that_is_read_ahead() -> None:
    source = Counted(1000, shuffle_buffer=10)
    stream = ShuffledStream(source, seed=0, which=0)
    before = source.read
    for _ in range(5):
        stream.next()
    assert source.read - before == 14  # ten to begin with, and one for each of the next four


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 7), min_size=1, max_size=4).filter(any),
    shuffle_buffer=st.integers(1, 9),
    cut=st.integers(0, 45),
    seed=st.integers(0, 3),
)
def test_an_interruption_anywhere_changes_nothing(sizes: list[int], shuffle_buffer: int, cut: int, seed: int) -> None:
    """Over two epochs and more, beside an index."""
    whole = mixed(*sizes, shuffle_buffer=shuffle_buffer, seed=seed)
    expected = drawn(whole, 70)
    first = mixed(*sizes, shuffle_buffer=shuffle_buffer, seed=seed)
    assert drawn(first, cut) == expected[:cut]
    state = through_json(first.state_dict())
    drawn(first, 5)  # a state that was given away does not move on
    resumed = mixed(*sizes, shuffle_buffer=shuffle_buffer, seed=seed)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert drawn(resumed, 70 - cut) == expected[cut:]
    assert resumed.state_dict() == whole.state_dict()


def test_a_stream_is_mixed_by_weight_with_an_index() -> None:
    counts = Counter(each[0] == "i" for each in drawn(mixed(40, 41), 1200))
    assert counts[True] == pytest.approx(400, abs=70)  # the standard deviation is 16
    assert drawn(mixed(9, seed=6), 40) != drawn(mixed(9, seed=5), 40)


def test_files_that_changed_are_refused() -> None:
    state = mixed(5, 3).state_dict()
    with pytest.raises(DataError, match=r"gone \['1:3'\], new \['1:4'\]") as caught:
        mixed(5, 4).load_state_dict(state)
    assert caught.value.exit_code == 5
    with pytest.raises(DataError, match=r"\[3, 2\] records now and had \[3, None\]"):
        Feed([(Source(3), 1.0), (Source(2), 1.0)], seed=5).load_state_dict(state)


def test_records_that_are_gone_are_noticed() -> None:
    """Same name and size, other content."""

    @final
    class Moved(StreamSource):
        shuffle_buffer = 4

        def shards(self) -> Sequence[str]:
            return ["0:5"]

        def open(self, shard: int, position: StreamPosition) -> Iterator[StreamRecord]:
            return (StreamRecord((3 * n,), (3 * n + 3,), Dialogue(str(n), ())) for n in range(5))

    stream = ShuffledStream(Counted(5), seed=0, which=0)
    stream.next()
    with pytest.raises(DataError, match="not there any more"):
        ShuffledStream(Moved(), seed=0, which=0).load_state_dict(stream.state_dict())


def test_a_bad_record_is_not_skipped_however_often_one_asks() -> None:
    stream = ShuffledStream(Counted(6, bad=(0, 4)), seed=0, which=0)
    stream.next()
    for _ in range(2):
        with pytest.raises(DataError, match=r"0\.jsonl:5"):
            stream.next()


def test_an_empty_stream_is_refused() -> None:
    with pytest.raises(DataError, match="empty"):
        Feed([(Source(stream=Counted(0, 0)), 1.0)], seed=0)


def test_all_takes_the_first_of_a_stream_and_leaves_its_cursor() -> None:
    feed = mixed(4, 4)
    state = feed.state_dict()
    assert [each.id for each in feed.all(5)] == ["i-0", "i-1", "i-2", "0-0", "0-1"]
    assert [each.id for each in feed.all(None)] == ["i-0", "i-1", "i-2", *_shard(0, 4), *_shard(1, 4)]
    assert feed.state_dict() == state
    assert feed.size is None
    assert Feed([(Source(3), 1.0), (Source(2), 1.0)], seed=0).size == 5


def write_lines(path: Path, count: int) -> str:
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            text = f"{number} " + "word " * 50
            file.write(json.dumps({"id": str(number), "messages": [{"role": "user", "text": text}]}) + "\n")
    return str(path)


def jsonl(path: str, **options: Any) -> Jsonl:
    source = Jsonl(JsonlParams(path=path, streaming=True, **options), seed=0)
    source.prepare(lambda *_: None)
    return source


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(cut=st.integers(0, 60), shuffle_buffer=st.integers(1, 12))
def test_files_resume_at_the_record(tmp_path: Path, cut: int, shuffle_buffer: int) -> None:
    """The same over real lines of real files."""
    folder = tmp_path / "shards"
    folder.mkdir(exist_ok=True)
    for number, count in enumerate((9, 1, 14)):
        write_lines(folder / f"{number}.jsonl", count)

    def feed() -> Feed:
        return Feed([(jsonl(str(folder), shuffle_buffer=shuffle_buffer), 1.0)], seed=2)

    expected, first, second = [each.messages for each in feed().next(80)], feed(), feed()
    first.next(cut)
    second.load_state_dict(through_json(first.state_dict()))
    assert [each.messages for each in second.next(80 - cut)] == expected[cut:]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Going through eight times the records takes no more of it."""
    peaks = []
    for count in (300, 2400):
        path = write_lines(tmp_path / f"{count}.jsonl", count)
        shown = bytearray(count)
        tracemalloc.start()
        feed = Feed([(jsonl(path, shuffle_buffer=50), 1.0)], seed=0)
        for _ in range(count):
            shown[int(feed.next(1)[0].id)] = 1
        assert sum(shown) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
