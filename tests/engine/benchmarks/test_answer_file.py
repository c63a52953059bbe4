"""Answers on disk: taken up where they end, never mixed with others', and no file of somebody else removed."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.engine.benchmarks.made import given
from wavalign.engine.benchmarks.answer_file import AnswerFile, file_name
from wavalign.errors import DataError, UsageError
from wavalign.plugins.batch import Waveform

ABOUT = {"model": "m", "seed": 0}


def test_what_was_being_written_is_cut_and_the_rest_taken_up(tmp_path: Path) -> None:
    file = AnswerFile(tmp_path / "a", ABOUT)
    file.append([given("one", 0), given("two", 1)])
    with file.path.open("a", encoding="utf-8") as handle:
        handle.write('{"place": 2, "dialogue": "q2", "te')
    again = AnswerFile(tmp_path / "a", ABOUT)
    assert again.given == [given("one", 0), given("two", 1)]
    again.append([given("three", 2)])
    assert [json.loads(line)["text"] for line in again.path.read_text().splitlines()] == ["one", "two", "three"]


def test_answers_of_something_else_are_refused_and_replaced_when_asked(tmp_path: Path) -> None:
    file = AnswerFile(tmp_path / "a", ABOUT)
    path, seconds = file.write_sound(Waveform(np.full(400, 0.5, np.float32), 8000), "0-q/0")
    assert path == "audio/0-q_0.wav" and seconds == 0.05
    file.append([given("one", 0, path)])
    sound = file.given[0].sound(file.folder)
    assert sound is not None and sound.sample_rate == 8000
    with pytest.raises(UsageError, match="other answers: seed was 0 and is 1") as caught:
        AnswerFile(tmp_path / "a", {**ABOUT, "seed": 1})
    assert "--overwrite" in (caught.value.hint or "")
    replaced = AnswerFile(tmp_path / "a", {**ABOUT, "seed": 1}, overwrite=True)
    assert replaced.given == [] and not list((tmp_path / "a" / "audio").iterdir())


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="holds something else"):
            AnswerFile(tmp_path, ABOUT, overwrite=overwrite)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    file = AnswerFile(tmp_path / "a", ABOUT)
    file.append([given("one", 0), given("two", 1)])
    text = file.path.read_text()
    file.path.write_text(text.replace('"place": 1', '"place": x'))
    with pytest.raises(DataError, match=r"answers.jsonl:2: no answer"):
        AnswerFile(tmp_path / "a", ABOUT)
    file.path.write_text(text[:20])
    with pytest.raises(DataError, match="it was cut by something else"):
        AnswerFile(tmp_path / "a", ABOUT)


def test_names_of_files_are_tame() -> None:
    assert file_name("a/../b c?") == "a_.._b_c" and file_name("///") == "answer"
