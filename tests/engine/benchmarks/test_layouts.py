"""What the suites' own scorers read: the fields that their code takes, and nothing of a row lost."""

import json
from pathlib import Path
from typing import Any

from tests.engine.benchmarks.made import given, question
from wavalign.engine.benchmarks.layouts import SuiteFile
from wavalign.engine.benchmarks.questions import Benchmark, Question, Task


def made(
    folder: Path, suite: str, task: Task, *asked: Question, subset: str = "mmsu", spoken: bool = True
) -> SuiteFile:
    return SuiteFile(folder, Benchmark(asked, suite, subset, task, False, len(asked), spoken), model="my model")


def lines(path: Path | None) -> list[dict[str, Any]]:
    assert path is not None
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_voicebench_is_the_row_and_the_response(tmp_path: Path) -> None:
    row = {"prompt": "Which?", "reference": "B", "id": "navigate-3", "kwargs": [{"n": None}], "audio": "q.wav"}
    asked = question(row=row, answer="B")
    file = made(tmp_path, "voicebench", "choice", asked)
    path = file.write([(asked, given("It is B.", audio="audio/0.wav"))])
    assert path == tmp_path / "my_model-mmsu-test-audio.jsonl"
    assert lines(path) == [{**{k: v for k, v in row.items() if k != "audio"}, "response": "It is B."}]
    assert file.command() == "python evaluate.py --src_file my_model-mmsu-test-audio.jsonl --evaluator mcq"


def test_voicebench_is_judged_before_it_is_evaluated(tmp_path: Path) -> None:
    name = "my_model-sd-qa-test-text.jsonl"
    assert made(tmp_path, "voicebench", "reference", subset="sd-qa", spoken=False).command() == (
        f"python api_judge.py --src_file {name} && python evaluate.py --src_file result-{name} --evaluator qa"
    )


def test_ultraeval_takes_up_what_its_recorder_would_have_written(tmp_path: Path) -> None:
    """As its `--resume` reads it: by `type`, `id` (the place in the data) and `data.content`."""
    asked = question(place=7, suite="ultraeval", row={"Question": "Who?"})
    path = made(tmp_path, "ultraeval", "reference", asked).write([(asked, given("Ada", 7, "audio/7.wav"))])
    (line,) = lines(path)
    assert (line["type"], line["id"]) == ("inference", 7)
    assert json.loads(line["data"]["content"]) == {"text": "Ada", "audio": str(tmp_path / "audio" / "7.wav")}


def test_vstyle_names_sound_from_its_root(tmp_path: Path) -> None:
    row = {"instruct_text": "Whisper.", "ability": "acoustic_attributes/volume", "instruct_id": 90}
    asked = question(suite="vstyle", row=row)
    file = made(tmp_path, "vstyle", "style", asked, subset="en")
    path = file.write([(asked, given("Hush.", audio="audio/0.wav"))])
    (line,) = lines(path)
    assert line == {
        **row, "id": 90, "model_name": "my_model", "response_text": "Hush.", "response_audio_path": "0.wav"
    }  # fmt: skip
    assert f"--root_dir {tmp_path / 'audio'} --metadata_path {path}" in file.command()
    (silent,) = lines(file.write([(asked, given("Hush."))]))
    assert silent["response_audio_path"] == ""


def test_dialogues_have_no_suite(tmp_path: Path) -> None:
    file = made(tmp_path, "dialogues", "reference")
    assert file.write([]) is None and file.command() == ""
