"""Which dialogues a step sees: epochs, mixing, the place in the data, slices; and codes computed once."""

import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import final

import numpy as np
import pytest
import soundfile
import torch

from tests.toy.compiled import compiled
from tests.toy.live import live_stage
from wavalign.engine.feeding.feeds import CodeCache, Feed, feed_seed
from wavalign.errors import DataError, PluginError, StorageError
from wavalign.plugins.api import Codec, DataSource
from wavalign.plugins.batch import AudioClip, Dialogue, Message, Waveform
from wavalign.schema.base import Params


@final
class Numbers(DataSource):
    """Dialogues `name-0`, `name-1`, ..."""

    def __init__(self, name: str, count: int, bad: int = -1) -> None:
        super().__init__(Params(), seed=0)
        self.name, self.count, self.bad = name, count, bad

    def prepare(self, progress: Callable[[str, int, int], None]) -> None:
        return

    def __len__(self) -> int:
        return self.count

    def record(self, index: int) -> Dialogue:
        if index == self.bad:
            raise DataError(f"{self.name}.jsonl:{index + 1}: not a JSON object")
        return Dialogue(f"{self.name}-{index}", ())


def feed(*sizes: int, weights: Sequence[float] = (), seed: int = 5) -> Feed:
    weights = weights or [1.0] * len(sizes)
    return Feed([(Numbers("abc"[i], size), weights[i]) for i, size in enumerate(sizes)], seed=seed)


def ids(dialogues: Sequence[Dialogue]) -> list[str]:
    return [each.id for each in dialogues]


def test_every_epoch_shows_everything_once_in_an_order_of_its_own() -> None:
    one = feed(7)
    epochs = [ids(one.next(7)) for _ in range(4)]
    assert all(sorted(epoch) == [f"a-{i}" for i in range(7)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_draws_do_not_depend_on_how_they_are_asked_for() -> None:
    whole, pieces = feed(5, 3), feed(5, 3)
    assert ids(whole.next(40)) == [each for count in (1, 7, 2, 30) for each in ids(pieces.next(count))]
    assert ids(feed(5, 3, seed=6).next(40)) != ids(feed(5, 3).next(40))


def test_sources_are_mixed_by_weight_and_each_keeps_its_epochs() -> None:
    drawn = ids(feed(4, 3, 50, weights=(3, 1, 0.5)).next(1800))
    counts = Counter(each[0] for each in drawn)
    # 1200, 400 and 200 expected; the standard deviation is at most 20.
    assert counts["a"] == pytest.approx(1200, abs=80)
    assert counts["b"] == pytest.approx(400, abs=80)
    within = Counter(drawn)
    assert max(within[f"a-{i}"] for i in range(4)) - min(within[f"a-{i}"] for i in range(4)) <= 1
    assert len({each for each in drawn if each[0] == "c"}) == 50


def test_the_place_is_remembered_exactly() -> None:
    first = feed(5, 3, weights=(1, 2))
    first.next(17)
    state = first.state_dict()
    frozen = {**state, "taken": list(state["taken"])}
    rest = ids(first.next(23))
    assert state == frozen, "a state that was given away must not move on"
    second = feed(5, 3, weights=(1, 2))
    second.next(2)
    second.load_state_dict(state)
    assert ids(second.next(23)) == rest
    assert second.state_dict() == first.state_dict()


def test_data_that_changed_its_size_is_refused() -> None:
    with pytest.raises(DataError, match=r"\[5, 4\] records now and had \[5, 3\]") as caught:
        feed(5, 4).load_state_dict(feed(5, 3).state_dict())
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("now", [3, 5, 0])
def test_a_length_that_changes_within_a_run_is_named(now: int) -> None:
    source = Numbers("a", 4)
    fed = Feed([(source, 1.0)], seed=5)
    fed.next(2)
    source.count = now
    with pytest.raises(PluginError, match=f"'Numbers': had 4 records when the run began and has {now} now"):
        fed.next(1)


def test_an_empty_source_is_refused() -> None:
    with pytest.raises(DataError, match="empty"):
        feed(3, 0)


def test_all_is_every_dialogue_once_or_evenly_spread() -> None:
    assert ids(feed(3, 2).all(None)) == ["a-0", "a-1", "a-2", "b-0", "b-1"]
    assert ids(feed(10).all(4)) == ["a-0", "a-2", "a-5", "a-7"]
    assert ids(feed(3).all(8)) == ["a-0", "a-1", "a-2"]


def test_a_bad_record_is_not_skipped() -> None:
    one = Feed([(Numbers("a", 4, bad=2), 1.0)], seed=0)
    with pytest.raises(DataError, match=r"a.jsonl:3"):
        one.next(4)


def test_headings_have_orders_of_their_own() -> None:
    seeds = {feed_seed(1, stage, heading) for stage in ("warm", "align") for heading in ("prompts", "demonstrations")}
    assert len(seeds) == 4


@final
class Counting(Codec):
    """Gives how many samples there are, and counts its calls."""

    sample_rate = 8000

    def __init__(self, version: str = "1") -> None:
        self.calls, self.version = 0, version

    def encode(self, waveform: Waveform) -> list[int]:
        assert waveform.sample_rate == self.sample_rate
        self.calls += 1
        return [len(waveform.samples), 70000, 0]

    def decode(self, codes: Sequence[int]) -> Waveform:
        raise NotImplementedError

    def fingerprint(self) -> str:
        return self.version


@pytest.fixture
def clip(tmp_path: Path) -> AudioClip:
    path = tmp_path / "one.wav"
    soundfile.write(path, np.full(800, 0.1), 8000)
    return AudioClip(str(path))


def test_codes_are_computed_once_by_content(tmp_path: Path, clip: AudioClip) -> None:
    codec, path = Counting(), tmp_path / "cache" / "codes.sqlite"
    cache = CodeCache(codec, path)
    assert list(cache(clip)) == list(cache(clip)) == [800, 70000, 0]
    copy = AudioClip(str(tmp_path / "copy.wav"))
    shutil.copy(clip.url, copy.url)
    assert list(cache(copy)) == [800, 70000, 0]
    assert codec.calls == 1
    # Another process, later; then another codec; then the same name with other content.
    assert list(CodeCache(codec, path)(clip)) == [800, 70000, 0]
    assert codec.calls == 1
    CodeCache(Counting("2"), path)(clip)
    other = Counting()
    soundfile.write(clip.url, np.full(1600, 0.1), 8000)
    assert next(iter(CodeCache(other, path)(clip))) == 1600
    assert other.calls == 1


@pytest.mark.parametrize("content", [None, b"", b"RIFF\x00\x00", b"not sound at all"])
def test_bad_sound_is_named_and_leaves_nothing_in_the_cache(
    tmp_path: Path, clip: AudioClip, content: bytes | None
) -> None:
    path = Path(clip.url)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    cache = CodeCache(Counting(), tmp_path / "codes.sqlite")
    for _ in range(2):
        with pytest.raises(DataError, match=r"one\.wav"):
            cache(clip)


def test_sound_without_a_codec_and_demonstrations_without_a_target(tmp_path: Path, clip: AudioClip) -> None:
    encoder = live_stage(compiled(tmp_path)).roller.encoder
    with pytest.raises(DataError, match="recipe no codec") as caught:
        encoder.prompt(Dialogue("d", (Message("user", "hm", clip),)))
    assert "model.codec" in caught.value.hint
    with pytest.raises(DataError, match="dialogue d has no target"):
        encoder.target(Dialogue("d", ()))


def test_a_damaged_cache_of_codes_is_named(tmp_path: Path) -> None:
    """Not a database: StorageError with the file and what may be done."""
    path = tmp_path / "codes.sqlite"
    path.write_bytes(b"no database at all " * 100)
    with pytest.raises(StorageError, match=r"codes\.sqlite") as caught:
        CodeCache(Counting(), path)
    assert "remove it" in caught.value.hint


def test_a_damaged_entry_of_codes_is_computed_anew(tmp_path: Path, clip: AudioClip) -> None:
    codec, path = Counting(), tmp_path / "codes.sqlite"
    wanted = list(CodeCache(codec, path)(clip))
    with sqlite3.connect(path) as database:
        database.execute("UPDATE codes SET ids = ?", (b"\1\0\0\0",))
    assert list(CodeCache(codec, path)(clip)) == wanted
    assert codec.calls == 2


def test_a_prompt_that_is_kept_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = live_stage(compiled(tmp_path)).roller.encoder
    written: list[str] = []
    original = type(encoder.architecture).encode_prompt

    def counted(self: object, dialogue: Dialogue, encode_audio: object) -> object:
        written.append(dialogue.id)
        return original(self, dialogue, encode_audio)  # type: ignore[arg-type]

    monkeypatch.setattr(type(encoder.architecture), "encode_prompt", counted)
    one, other = (Dialogue("same", (Message("user", text),)) for text in ("one", "two"))
    keeping = encoder.keeping()
    rows = [keeping.prompt(each) for each in (one, other, one, other)]
    assert written == ["same", "same"]
    assert rows[0] is rows[2] and not torch.equal(rows[0].ids, rows[1].ids)
    plain = [encoder.prompt(one), encoder.prompt(one)]
    assert len(written) == 4 and torch.equal(plain[0].ids, rows[0].ids)
    assert keeping.codec_lock is encoder.codec_lock
