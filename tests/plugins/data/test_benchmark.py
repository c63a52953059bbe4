"""Benchmarks' files: the suite is told by its columns, the row travels along, and what fits no suite is said so."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from tests.plugins.data.sounds import level, ready, wav, write_wav
from wavalign.errors import DataError
from wavalign.plugins.batch import AudioClip, Message
from wavalign.plugins.data.benchmark import Benchmark, BenchmarkParams

MMSU: dict[str, Any] = {"prompt": "Which one?\nA. red\nB. blue", "reference": "B", "domain": "law", "question_id": 7}


def source(path: Path, **options: Any) -> Benchmark:
    return Benchmark(BenchmarkParams.model_validate({"path": str(path), **options}), seed=0)


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_voicebench_as_it_is_published(tmp_path: Path) -> None:
    path = tmp_path / "test-00000-of-00001.parquet"
    table = [
        {**MMSU, "audio": {"bytes": wav(0.25), "path": "q.wav"}},
        {**MMSU, "audio": {"bytes": wav(0.5), "path": None}},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(table), path)
    first, second = ready(source(path))
    assert first.messages == (Message("user", MMSU["prompt"], AudioClip(f"cell://0/audio@{path}")),)
    assert [level(each.messages[0].audio) for each in (first, second)] == [0.25, 0.5]
    about = {"benchmark": {"suite": "voicebench", "row": MMSU}, "question_text": MMSU["prompt"]}
    assert first.metadata == {**about, "answer": "B", "reference": "B"}
    assert first.target is None and (first.id, second.id) == ("row-0", "row-1")


def test_voicebench_in_lines_and_asked_in_text(tmp_path: Path) -> None:
    write_wav(tmp_path / "q" / "1.wav", 0.5)
    path = lines(
        tmp_path / "bbh.jsonl", {"prompt": "Go on?", "id": "navigate-1", "reference": "Yes", "audio": "q/1.wav"}
    )
    (spoken,) = ready(source(path))
    assert level(spoken.messages[0].audio) == 0.5
    assert spoken.metadata["benchmark"]["row"]["audio"] == "q/1.wav"
    (written,) = ready(source(path, modality="text"))
    assert written.messages == (Message("user", "Go on?"),)


def test_ultraeval_audio(tmp_path: Path) -> None:
    sounds = tmp_path / "sounds"
    write_wav(sounds / "1.wav", 0.125)
    row = {"WavPath": "1.wav", "Question": "Who?", "Answer": ["Ada", "Ada Lovelace"]}
    (found,) = ready(source(lines(tmp_path / "q.jsonl", row), audio_root=str(sounds)))
    assert (found.messages[0].text, level(found.messages[0].audio)) == ("Who?", 0.125)
    assert found.metadata["answer"] == ["Ada", "Ada Lovelace"]
    assert found.metadata["benchmark"] == {"suite": "ultraeval", "row": row}


def test_vstyle_by_its_ids(tmp_path: Path) -> None:
    row = {"instruct_text": "Whisper it.", "ability": "acoustic_attributes/volume", "instruct_id": 90, "id": 891}
    (found,) = ready(source(lines(tmp_path / "en.jsonl", row)))
    assert (found.id, found.messages[0].text) == ("891", "Whisper it.")
    assert "answer" not in found.metadata and found.metadata["benchmark"] == {"suite": "vstyle", "row": row}


def test_dialogues_are_read_as_ever(tmp_path: Path) -> None:
    record = {
        "id": "a", "messages": [{"role": "user", "text": "Hi?", "audio": "h.wav"}], "target": {"text": "Hello."},
        "metadata": {"answer": "hello"},
    }  # fmt: skip
    path = lines(tmp_path / "d.jsonl", record)
    (found,) = ready(source(path))
    assert found.metadata == {"answer": "hello"} and found.target == Message("assistant", "Hello.")
    assert found.messages[0].audio is not None
    (silent,) = ready(source(path, modality="text"))
    assert silent.messages == (Message("user", "Hi?"),) and silent.target == found.target


@pytest.mark.parametrize(
    ("rows", "options", "said", "hint"),
    [
        ([{"quiz": "?"}], {}, r"q.jsonl:1: no known benchmark has the columns quiz", "VoiceBench has prompt and audio"),
        ([{"prompt": "a"}, {"WavPath": "b.wav"}], {}, r"q.jsonl:2: the rows before are of voicebench", "--as"),
        ([{"prompt": "", "audio": None}], {}, r"q.jsonl:1: the question has neither text nor sound", ""),
        ([{"prompt": 3}], {}, r"q.jsonl:1: column 'prompt' holds int", ""),
        ([{"WavPath": "b.wav"}], {"modality": "text"}, r"q.jsonl:1: the question has no text", ""),
        ([{"prompt": "a", "audio": [1]}], {}, r"q.jsonl:1: column 'audio' holds list", ""),
    ],
)
def test_what_fits_no_suite_says_where_and_what(
    tmp_path: Path, rows: list[Any], options: dict[str, Any], said: str, hint: str
) -> None:
    with pytest.raises(DataError, match=said) as caught:
        ready(source(lines(tmp_path / "q.jsonl", *rows), **options))
    assert hint in (caught.value.hint or "")


def test_a_named_suite_is_taken_for_granted(tmp_path: Path) -> None:
    path = lines(tmp_path / "q.jsonl", {"prompt": "Who?", "answer": "Ada"})
    (found,) = ready(source(path, suite="ultraeval"))
    assert (found.metadata["benchmark"]["suite"], found.metadata["answer"]) == ("ultraeval", "Ada")
