"""Lines that are appended, refused, cut."""

import errno
import json
import math
import os
from pathlib import Path

import pytest

from wavalign.engine.state.metrics import METRICS_NULLABLE, ROLLOUTS_NULLABLE, MetricsWriter
from wavalign.errors import NonFiniteError, ResumeError, StorageError


def lines(path: Path) -> list[dict[str, object]]:
    """What the file holds."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_lines_stand_in_the_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path)
    writer.write({"step": 1, "loss": 0.5, "text": "zwei\nZeilen ä"})
    assert lines(path) == [{"step": 1, "loss": 0.5, "text": "zwei\nZeilen ä"}]
    assert writer.offset == path.stat().st_size
    writer.write({"step": 2})
    again = MetricsWriter(path)
    assert again.offset == writer.offset == path.stat().st_size
    again.write({"step": 3})
    assert [line["step"] for line in lines(path)] == [1, 2, 3]


def test_rewind_keeps_what_it_cuts(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path)
    writer.write({"step": 1})
    offset = writer.offset
    writer.write({"step": 2})
    writer.close()
    with path.open("a") as file:
        file.write('{"step": 3, "torn')
    for number in (1, 2):
        writer = MetricsWriter(path)
        writer.rewind(offset)
        assert lines(path) == [{"step": 1}]
        writer.write({"step": 2, "again": number})
        assert [line["step"] for line in lines(path)] == [1, 2]
        assert writer.offset == path.stat().st_size
    assert (tmp_path / "metrics.jsonl.cut-1").read_text() == '{"step": 2}\n{"step": 3, "torn'
    assert (tmp_path / "metrics.jsonl.cut-2").read_text() == '{"step": 2, "again": 1}\n'
    writer.rewind(writer.offset)
    assert not (tmp_path / "metrics.jsonl.cut-3").exists()
    with pytest.raises(ResumeError, match="had 9999 when"):
        writer.rewind(9999)


def test_a_value_without_an_interval_or_a_ceiling_ends_no_run(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path)
    bounds = {"wer/low": math.nan, "wer/high": math.nan}
    golds = {"wer/ceiling": math.nan, "wer/ceiling_low": math.nan, "wer/ceiling_high": math.nan}
    writer.write({"step": 1, "wer": 0.5, **bounds, **golds, "wer/count": 1})
    assert lines(path) == [{"step": 1, "wer": 0.5, **dict.fromkeys([*bounds, *golds]), "wer/count": 1}]
    for bad in ({"wer/low": math.inf, "wer/count": 1}, {"wer/low": math.nan}, {"wer/mean": math.nan, "wer/count": 1}):
        with pytest.raises(NonFiniteError, match="wer/"):
            writer.write({"step": 2, **bad})


def test_nan_is_null_only_where_it_may_be(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path, nullable=METRICS_NULLABLE)
    writer.write({"step": 1, "reward": math.nan, "reward/answer": math.nan, "loss": 1.0})
    writer.write({"step": 1, "wer": math.nan, "wer/low": math.nan, "wer/count": 0})
    assert lines(path) == [
        {"step": 1, "reward": None, "reward/answer": None, "loss": 1.0},
        {"step": 1, "wer": None, "wer/low": None, "wer/count": 0},
    ]
    size = path.stat().st_size
    for bad in ({"loss": math.nan}, {"reward": math.inf}, {"grad_norm": -math.inf}, {"loss": None}):
        with pytest.raises(NonFiniteError, match=f"{next(iter(bad))} is .* at step 7"):
            writer.write({"step": 7, **bad})
    with pytest.raises(NonFiniteError, match="wer is nan"):
        writer.write({"step": 7, "wer": math.nan, "wer/count": 3})
    with pytest.raises(ValueError, match="not JSON compliant"):
        writer.write({"step": 7, "metadata": {"deep": [math.nan]}})
    assert path.stat().st_size == size


def test_rollouts_may_lack_gold_and_reward(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    line = {"text": "a", "reference": None, "reward": None, "reward/x": None, "metadata": {"style": None}}
    MetricsWriter(path, nullable=ROLLOUTS_NULLABLE).write(line)
    assert lines(path) == [line]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path)
    writer.write({"step": 1})
    real = os.write
    room = [5]

    def write(descriptor: int, data: bytes) -> int:
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data[: room.pop()])

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(StorageError, match="No space left") as caught:
        writer.write({"step": 2, "loss": 1.0})
    assert "free space" in caught.value.hint
    monkeypatch.undo()
    assert lines(path) == [{"step": 1}]
    writer.write({"step": 2})
    assert [line["step"] for line in lines(path)] == [1, 2]


def test_close_twice(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    writer.sync()
    writer.close()
    writer.close()
