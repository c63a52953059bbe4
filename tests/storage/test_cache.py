"""What is kept on disk and in memory: found again, of a bounded size, and made anew where it is damaged."""

import sqlite3
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from threading import Timer

import pytest

from wavalign.errors import StorageError
from wavalign.storage import cache
from wavalign.storage.cache import BlobCache, Recent, uses_said


@pytest.fixture(autouse=True)
def nothing_said() -> None:
    uses_said()


def opened(path: Path) -> BlobCache:
    return BlobCache(path, table="things", column="value", what="things")


def test_a_value_is_found_again_also_by_another_who_opens_the_file(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "things.sqlite"
    first = opened(path)
    assert first.get("a") is None
    first.put("a", b"1")
    first.put("b", b"")
    assert (first.get("a"), opened(path).get("b")) == (b"1", b"")
    first.put("a", b"22")
    assert opened(path).get("a") == b"22"
    assert uses_said() == [f"things: 3 computed, 3 read from {path}"]
    assert uses_said() == []


def being_made(path: Path) -> sqlite3.Connection:
    """A new file whose first table another one is writing."""
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    other.execute("CREATE TABLE more (x)")
    return other


def test_a_file_that_another_process_is_making_is_waited_for(tmp_path: Path) -> None:
    other = being_made(tmp_path / "things.sqlite")
    Timer(0.3, lambda: other.execute("COMMIT")).start()
    kept = opened(tmp_path / "things.sqlite")
    kept.put("a", b"1")
    assert kept.get("a") == b"1"


def test_a_file_that_stays_locked_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = being_made(tmp_path / "things.sqlite")
    monkeypatch.setattr(cache, "PATIENCE", 0.1)
    with pytest.raises(StorageError, match="database is locked"):
        opened(tmp_path / "things.sqlite")
    other.close()


def test_a_damaged_value_is_made_anew_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "things.sqlite"
    kept = opened(path)
    kept.put("a", b"right")
    with sqlite3.connect(path) as database:
        database.execute("UPDATE things SET value = ?", (b"wrong",))
    assert kept.get("a") is None
    kept.put("a", b"right")
    assert kept.get("a") == b"right"
    assert uses_said() == [f"things: 2 computed, 1 read from {path}; 1 of them anew, for their entries were damaged"]


def test_a_file_of_an_earlier_version_is_filled_anew(tmp_path: Path) -> None:
    """It wrote no sums: what it holds is not trusted, and no damage is told of."""
    path = tmp_path / "things.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE things (key TEXT PRIMARY KEY, value BLOB)")
        database.execute("INSERT INTO things VALUES ('a', ?)", (b"old",))
    kept = opened(path)
    assert kept.get("a") is None
    kept.put("a", b"new")
    assert opened(path).get("a") == b"new"
    assert "damaged" not in uses_said()[0]


def test_the_size_is_bounded_and_old_days_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not asked for lately goes first; what is of today stays, and what is new then finds no room."""
    monkeypatch.setenv("WAVALIGN_CACHE_GB", "0.002")
    day = [100]
    monkeypatch.setattr(cache, "_today", lambda: day[0])
    path, value = tmp_path / "things.sqlite", b"x" * 100_000
    kept = opened(path)
    for name in range(10):
        kept.put(f"old {name}", value)
    day[0] = 101
    assert kept.get("old 9") == value  # asked for again: it counts as of today
    for name in range(30):
        kept.put(f"new {name}", value)
    assert kept.get("old 9") == value
    assert all(kept.get(f"old {name}") is None for name in range(9))
    held = [name for name in range(30) if kept.get(f"new {name}") is not None]
    assert held == list(range(len(held))) and 10 < len(held) < 20
    assert kept._bytes() <= 2_000_000
    assert f"; {30 - len(held)} found no room (raise $WAVALIGN_CACHE_GB)" in uses_said()[0]


def test_with_no_room_at_all_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAVALIGN_CACHE_GB", "0")
    kept = opened(tmp_path / "things.sqlite")
    kept.put("a", b"1")
    assert kept.get("a") is None


@pytest.mark.parametrize("size", ["much", "-1", "nan", "inf"])
def test_a_size_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    monkeypatch.setenv("WAVALIGN_CACHE_GB", size)
    with pytest.raises(StorageError, match=r"\$WAVALIGN_CACHE_GB is .* not a number of gigabytes"):
        opened(tmp_path / "things.sqlite")


def fill(path: str, start: int) -> int:
    """In a process of its own: write and read beside others."""
    kept = opened(Path(path))
    for name in range(start, start + 40):
        kept.put(str(name), str(name).encode() * 1000)
    return sum(kept.get(str(name)) == str(name).encode() * 1000 for name in range(start, start + 40))


def test_several_processes_write_and_read_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "things.sqlite")
    with ProcessPoolExecutor(3, mp_context=get_context("forkserver")) as pool:
        found = list(pool.map(fill, [path] * 3, (0, 20, 40)))
    assert found == [40, 40, 40]
    assert all(opened(Path(path)).get(str(name)) is not None for name in range(80))


def test_in_memory_the_latest_stay() -> None:
    recent: Recent[str] = Recent(10)
    for name in ("a", "b"):
        recent.put(name, name, size=4)
    assert recent.get("a") == "a"  # so that b is the one that was asked for longest ago
    recent.put("c", "c", size=4)
    assert [recent.get(name) for name in ("a", "b", "c")] == ["a", None, "c"]
    recent.put("a", "larger", size=6)  # in the place of the smaller one
    assert (recent.get("a"), recent.get("c")) == ("larger", "c")
    recent.put("huge", "huge", size=99)
    assert recent.get("huge") == "huge" and len(recent) == 1
