"""A record that no dialogue can be is refused with its file and line, and takes no memory to say so."""

import json
import tracemalloc
from pathlib import Path

import pytest

from wavalign.errors import DataError
from wavalign.plugins.data.jsonl import Jsonl, JsonlParams
from wavalign.plugins.data.tables import readers as rows
from wavalign.plugins.data.tables.layout import Complaints


def record(text: str) -> str:
    return json.dumps({"messages": [{"role": "user", "text": text}], "target": {"text": "yes"}})


def written(folder: Path, *lines: str) -> str:
    path = folder / "data.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def complaint(path: str) -> str:
    source = Jsonl(JsonlParams(path=path), seed=0)
    with pytest.raises(DataError) as caught:
        source.prepare(lambda what, done, total: None)
    return f"{caught.value.message} {caught.value.hint}"


def test_a_line_of_many_megabytes(tmp_path: Path) -> None:
    """Named with its number; the lines behind it keep theirs; a fraction of it is held."""
    path = written(tmp_path, record("one"), record("x" * (54 << 20)), record("three"))
    size = len(record("x" * (54 << 20)))
    tracemalloc.start()
    found = list(rows.read_rows(path, (), None))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [row.where for row in found] == [f"{path}:1", f"{path}:2", f"{path}:3"]
    assert isinstance(found[1].tree, Complaints)
    assert found[2].tree["messages"][0]["text"] == "three"
    assert [row.tree for row in rows.read_rows(path, found[1].end, None)] == [found[2].tree]
    assert peak < 6 * rows.LONGEST_LINE
    said = complaint(path)
    assert f"{path}:2" in said
    assert f"the line has {size + 1:,} bytes" in said


@pytest.mark.parametrize("over", [0, 1])
def test_the_longest_line(tmp_path: Path, over: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without a line end behind it."""
    line = record("x" * 100)
    monkeypatch.setattr(rows, "LONGEST_LINE", len(line) - over)
    for end in ("", "\n"):
        (tmp_path / "data.jsonl").write_text(line + end, encoding="utf-8")
        (row,) = rows.read_rows(str(tmp_path / "data.jsonl"), (), None)
        assert isinstance(row.tree, Complaints) == bool(over)
        assert row.end == (len(line + end), 1)


def test_a_prompt_of_forty_thousand_words(tmp_path: Path) -> None:
    said = complaint(written(tmp_path, record("one"), record("word " * 40_000)))
    assert ":2" in said
    assert "200,000 characters, more than the 100,000 that a turn may have" in said


def test_a_dialogue_of_very_many_turns(tmp_path: Path) -> None:
    turns = [{"role": "user", "text": "word " * 100}] * 500
    said = complaint(written(tmp_path, json.dumps({"messages": turns, "target": {"text": "yes"}})))
    assert "250,000 characters, more than the 200,000 that a dialogue may have" in said


def test_a_list_that_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "LONGEST_LIST", 1 << 20)
    (tmp_path / "data.json").write_text(" " * ((1 << 20) + 1), encoding="utf-8")
    with pytest.raises(DataError, match="more than 1 MiB"):
        list(rows.read_rows(str(tmp_path / "data.json"), (), None))
