"""Parquet: what columns mean, where sound comes from, and that a row is found again from any position."""

import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet
from pydantic import ValidationError

from tests.plugins.data.sounds import level, ready, streamed, wav, write_wav
from wavalign.errors import DataError, PluginError
from wavalign.plugins import audio
from wavalign.plugins.batch import AudioClip, Dialogue, Message
from wavalign.plugins.data.parquet import Parquet, ParquetParams
from wavalign.storage import arrow

COLUMNS = {
    "text": "question", "audio": "question_audio", "target_text": "answer", "target_audio": "answer_audio",
    "metadata": {"answer": "short"},
}  # fmt: skip


def write(path: Path, rows: Sequence[dict[str, Any]], group: int = 2, **options: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path, row_group_size=group, **options)
    return str(path)


def source(path: str | list[str], columns: dict[str, Any] | None = None, **options: Any) -> Parquet:
    params = {"path": path, "columns": COLUMNS if columns is None else columns, **options}
    return Parquet(ParquetParams.model_validate(params), seed=0)


def rows(count: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "question": f"q{i}", "question_audio": {"bytes": wav(i / 100), "path": "x.wav"},
            "answer": f"a{i}", "answer_audio": wav(-i / 100), "short": i, "unused": b"x", **more,
        }
        for i in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("statistics", [True, False])
def test_columns_are_mapped_and_sound_stays_in_its_cells(tmp_path: Path, statistics: bool) -> None:
    """With statistics the sound is known to be there and is not read, without them it is looked at."""
    path = write(tmp_path / "d.parquet", rows(5), write_statistics=statistics)
    found = ready(source(path))
    assert found[3] == Dialogue(
        "row-3",
        (Message("user", "q3", AudioClip(f"cell://3/question_audio@{path}")),),
        Message("assistant", "a3", AudioClip(f"cell://3/answer_audio@{path}")),
        {"answer": 3},
    )
    assert [level(each.messages[0].audio) for each in found] == [0.0, 0.01, 0.02, 0.03, 0.04]
    assert [level(each.target.audio) for each in reversed(found) if each.target] == [-0.04, -0.03, -0.02, -0.01, -0.0]
    assert streamed(source(path, streaming=True)) == found


def test_opening_reads_no_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "d.parquet", rows(4))
    asked: list[str] = []
    read = arrow.read_group

    def watched(url: str, file: Any, group: int, columns: list[str]) -> Any:
        asked.extend(columns)
        return read(url, file, group, columns)

    monkeypatch.setattr("wavalign.plugins.data.tables.readers.read_group", watched)
    ready(source(path))
    assert set(asked) == {"question", "answer", "short"}
    asked.clear()
    only = {"audio": "question_audio"}
    assert [len(each.messages) for each in ready(source(path, only))] == [1] * 4 and asked == []


def test_sound_by_path_and_missing_sound(tmp_path: Path) -> None:
    """{bytes: null, path} is a path from the file; null is no sound; a string column holds paths."""
    write_wav(tmp_path / "data/near.wav", 0.25)
    write_wav(tmp_path / "root/near.wav", 0.5)
    table: list[dict[str, Any]] = [
        {"q": {"bytes": None, "path": "near.wav"}, "t": "a", "a": "near.wav"},
        {"q": {"bytes": wav(0.125), "path": None}, "t": "b", "a": None},
        {"q": None, "t": "c", "a": ""},
    ]
    path = write(tmp_path / "data/d.parquet", table, group=3)
    columns = {"text": "t", "audio": "q", "target_audio": "a"}
    first, second, third = ready(source(path, columns))
    assert (level(first.messages[0].audio), level(second.messages[0].audio)) == (0.25, 0.125)
    assert third.messages[0].audio is None
    assert first.target == Message("assistant", "", AudioClip(f"{tmp_path}/data/near.wav"))
    assert second.target is None and third.target is None
    moved = ready(source(path, columns, audio_root=str(tmp_path / "root")))[0]
    assert level(moved.messages[0].audio) == 0.5


def test_the_structure_of_the_jsonl_format(tmp_path: Path) -> None:
    """Without `columns`; sound inside nested lists has an address too."""
    turn = {"role": "user", "text": "hi", "audio": {"bytes": wav(0.5), "path": "a.wav"}}
    row = {"id": "x", "messages": [{**turn, "role": "system", "audio": None}, turn], "metadata": {"style": "sad"}}
    path = write(tmp_path / "d.parquet", [{**row, "target": {"text": "yo", "audio": "a/y.wav"}}])
    (found,) = ready(Parquet(ParquetParams(path=path), seed=0))
    assert found.id == "x" and found.metadata == {"style": "sad"}
    assert found.messages[1].audio == AudioClip(f"cell://0/messages/1/audio@{path}")
    assert level(found.messages[1].audio) == 0.5
    assert found.target == Message("assistant", "yo", AudioClip(f"{tmp_path}/a/y.wav"))
    extra = write(tmp_path / "e.parquet", [{**row, "mood": 3}])
    with pytest.raises(DataError, match=r"e\.parquet: the table has further columns \['mood'\]") as caught:
        ready(Parquet(ParquetParams(path=extra), seed=0))
    assert "columns" in caught.value.hint


def test_files_one_many_a_pattern_a_folder(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"d/part {i}@x.parquet", rows(i + 1)) for i in range(3)]
    write(tmp_path / "d/_hidden.parquet", rows(9))
    (tmp_path / "d/notes.txt").write_text("no data")
    folder = ready(source(str(tmp_path / "d")))
    assert [each.id for each in folder][:3] == [
        "part 0@x.parquet:row-0", "part 1@x.parquet:row-0", "part 1@x.parquet:row-1",
    ]  # fmt: skip
    assert len(folder) == 6 and level(folder[-1].messages[0].audio) == 0.02
    assert ready(source(str(tmp_path / "d/part*.parquet"))) == folder == ready(source(parts))
    remote = ready(source(f"file://{tmp_path}/d"))
    assert [each.id for each in remote] == [each.id for each in folder] and level(remote[-1].messages[0].audio) == 0.02
    with pytest.raises(DataError, match=r"none\*: no data file there"):
        ready(source(str(tmp_path / "none*")))
    with pytest.raises(DataError, match="named more than once"):
        ready(source([*parts, parts[0]]))


def test_reading_begins_at_any_row(tmp_path: Path) -> None:
    stream = source(write(tmp_path / "d.parquet", rows(7), group=3), streaming=True)
    stream.prepare(lambda *_: None)
    opened = stream.stream()
    assert opened is not None
    whole = list(opened.open(0, ()))
    for record in whole:
        assert list(opened.open(0, record.start)) == whole[record.start[0] :]
    assert list(opened.open(0, whole[-1].end)) == []


@pytest.mark.parametrize(
    ("row", "columns", "complaint"),
    [
        ({"q": 3}, {"text": "q"}, r"row 1: column 'q' holds int, and text is text"),
        ({"q": ""}, {"text": "q"}, "row 1: the question has neither text nor sound"),
        ({"q": None}, {"text": "q"}, "row 1: the question has neither"),
        ({"q": "a", "d": date(2020, 1, 2)}, {"text": "q", "metadata": {"day": "d"}}, "'d' holds date"),
        ({"q": "a"}, {"text": "p", "target_text": "r"}, "no column 'p', 'r'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, Any], columns: dict[str, Any], complaint: str) -> None:
    good: dict[str, Any] = {"q": 1, "d": None} if isinstance(row["q"], int) else {"q": "fine", "d": None}
    if isinstance(good["q"], int):
        complaint = complaint.replace("row 1", "row 0")
    path = write(tmp_path / "d.parquet", [good, row])
    with pytest.raises(DataError, match=complaint) as caught:
        ready(source(path, columns))
    assert path in caught.value.message and "columns" in caught.value.hint


def test_a_torn_file_is_named_and_the_next_one_still_looked_at(tmp_path: Path) -> None:
    whole = Path(write(tmp_path / "b.parquet", rows(2)))
    (tmp_path / "a.parquet").write_bytes(whole.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read as Parquet"):
        ready(source(str(tmp_path)))
    found = list(source(str(tmp_path)).inspect())
    assert [isinstance(each, DataError) for _, each in found] == [True, False, False]


def test_an_address_that_leads_nowhere(tmp_path: Path) -> None:
    path = write(tmp_path / "d.parquet", [*rows(2), {**rows(1)[0], "answer_audio": None}])
    for cell in ("9/answer_audio", "0/nothing", "0/question_audio/0", "2/answer_audio", "0/question"):
        with pytest.raises(DataError, match=rf"cell://{cell}@") as caught:
            audio.read_bytes(AudioClip(f"cell://{cell}@{path}"))
        assert "changed" in caught.value.hint
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        audio.read_bytes(AudioClip(f"cell://0/a@{tmp_path}/none.parquet"))


def test_names_with_signs_in_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a@b #1.parquet", [{"sound/of@q %": wav(0.5)}])
    (found,) = ready(source(path, {"audio": "sound/of@q %"}))
    assert level(found.messages[0].audio) == 0.5


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "d.parquet", rows(1))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(PluginError, match="pyarrow, which is not installed") as caught:
        ready(source(path))
    assert "wavalign[data]" in caught.value.hint


def test_a_question_needs_a_column() -> None:
    with pytest.raises(ValidationError, match="name the column of the question"):
        ParquetParams.model_validate({"path": "x", "columns": {"target_text": "a"}})
