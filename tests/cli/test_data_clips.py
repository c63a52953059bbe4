"""`data check` and the dry run say of every sound what a run would stumble over."""

import json
from pathlib import Path

import pytest

from tests.e2e.runs import here
from tests.e2e.test_bad_input import SUPERVISED, gold, spoken, written
from tests.plugins.test_sound_files import encoded, streaminfo
from tests.toy.compiled import Change, put

CODEC: tuple[Change, ...] = (
    put("model.codec", {"type": "source_filter"}),
    put("stages", [{"name": "codec", "type": "fit_codec"}, {"name": "train"}]),
)


def bad_sounds(folder: Path) -> list[str]:
    """A header that lies, a file cut short, one with too many channels; and a good one."""
    wav = encoded("WAV", "PCM_16")
    (folder / "lies.flac").write_bytes(streaminfo(encoded("FLAC", "PCM_16"), (1 << 36) - 1))
    (folder / "cut.wav").write_bytes(wav[:-9000])
    (folder / "many.wav").write_bytes(encoded("WAV", "PCM_16", channels=9))
    (folder / "good.wav").write_bytes(wav)
    return ["lies.flac", "cut.wav", "many.wav", "good.wav"]


def test_every_bad_sound_is_a_problem(tmp_path: Path) -> None:
    lines = [json.dumps(spoken(name)) for name in bad_sounds(tmp_path)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")
    ended = here("data", "check", str(tmp_path / "data.jsonl"), "--format", "json")
    assert ended.code == 1, ended.output
    found = [problem["message"] for problem in json.loads(ended.output)["problems"]]
    assert len(found) == 3
    assert ["lies.flac" in found[0], "cut.wav" in found[1], "many.wav" in found[2]] == [True] * 3
    assert "promises 68,719,476,735 samples, and 24,000 are there" in found[0]
    assert "cut short" in found[1]
    assert "9 channels" in found[2]


def test_the_recipe_says_how_long_a_sound_may_be(tmp_path: Path) -> None:
    (tmp_path / "good.wav").write_bytes(encoded("WAV", "PCM_16"))
    recipe = written(tmp_path, *SUPERVISED, gold(tmp_path, spoken("good.wav")), *CODEC)
    assert here("data", "check", recipe, "--heading", "demonstrations").code == 0
    ended = here("data", "check", recipe, "--heading", "demonstrations", "--set", "runtime.clips.max_seconds=1")
    assert ended.code == 1, ended.output
    assert "good.wav: the sound is 1.5 s long" in ended.output
    assert "raise runtime.clips.max_seconds, which is 1" in ended.output


def test_sound_inside_a_table_is_held_to_the_same(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    wav = encoded("WAV", "PCM_16")
    cells = [{"bytes": content, "path": None} for content in (wav, wav[:-9000])]
    table = pa.table({"question": ["one", "two"], "sound": cells, "answer": ["a", "b"]})
    parquet.write_table(table, tmp_path / "data.parquet")
    names = {"text": "question", "audio": "sound", "target_text": "answer"}
    columns = [part for key, name in names.items() for part in ("--set", f"columns.{key}={name}")]
    ended = here("data", "check", str(tmp_path / "data.parquet"), *columns)
    assert ended.code == 1, ended.output
    assert ended.output.count("cut short") == 1
    assert "cut short" in ended.output
