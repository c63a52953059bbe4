"""Answers with people's scores: what is read, and that every fault is told with its file and line."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from wavalign.engine.feeding.ratings import read_ratings
from wavalign.errors import DataError

ROW: dict[str, Any] = {"prompt": "p1", "question": "one plus one", "answer": "it is two", "scores": [4, 5]}


def write(path: Path, *rows: dict[str, Any] | str) -> str:
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in rows), encoding="utf-8")
    return str(path)


def test_a_row_in_its_short_and_its_long_form(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(4000), 8000)
    long = {
        "id": "x",
        "messages": [{"role": "system", "text": "be kind"}, {"role": "user", "audio": "q.wav"}],
        "answer": {"text": " it is two ", "audio": "a.wav"},
        "scores": {"anna": 2, "ben": 4.5},
        "reference": "two",
        "metadata": {"style": "sad", "deep": {"a": [1]}},
        "style": "happy",
        "nothing": None,
    }
    short, other, spoken = read_ratings(
        write(tmp_path / "s.jsonl", {**ROW, "scores": 3}, "", long, {**ROW, "answer": {"audio": "a.wav"}})
    )
    assert (short.people, short.words, short.seconds, short.prompt) == (3.0, 3, None, "p1")
    assert short.dialogue.id == "line-1" and short.dialogue.origin.endswith("s.jsonl:1")
    assert (other.people, other.words, other.seconds) == (3.25, 3, 0.5)
    assert other.dialogue.messages[1].audio is not None
    assert other.dialogue.messages[1].audio.url == str(tmp_path / "q.wav")
    assert other.dialogue.target is not None and other.dialogue.target.text == "two"
    assert other.dialogue.metadata == {"reference": "two", "style": "happy", "deep": {"a": [1]}}
    assert other.kinds == {"style": "happy"}
    assert spoken.words is None, "of sound alone nobody has counted the words"


def test_answers_to_one_question_belong_together(tmp_path: Path) -> None:
    bare = {key: value for key, value in ROW.items() if key != "prompt"}
    one, two, three = read_ratings(write(tmp_path / "s.jsonl", bare, bare, {**bare, "question": "else"}))
    assert one.prompt == two.prompt != three.prompt


def test_a_packed_file_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(ROW) + "\n").encode()))
    assert len(read_ratings(str(path))) == 1


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("{", "no JSON"),
        ("[1]", "valid dictionary"),
        ('{"scores": NaN}', "NaN is no number"),
        ({**ROW, "scores": []}, "nobody gave one"),
        ({**ROW, "scores": {}}, "nobody gave one"),
        ({**ROW, "scores": "4"}, "scores"),
        ({**ROW, "scores": True}, "scores"),
        ({**ROW, "scores": [4, None]}, "scores"),
        ({**ROW, "messages": [{"role": "user", "text": "x"}]}, "in its place"),
        ({key: value for key, value in ROW.items() if key != "question"}, "in its place"),
        ({key: value for key, value in ROW.items() if key != "answer"}, "answer: Field required"),
        ({**ROW, "question": ""}, "neither words nor sound"),
        ({**ROW, "messages": [{"role": "judge", "text": "x"}], "question": None}, "role"),
        ({**ROW, "answer": {"text": "x", "sound": "a.wav"}}, "sound"),
        ({**ROW, "answer": {"audio": "gone.wav"}}, "gone.wav"),
        ({**ROW, "style": ["a"]}, "style: what breaks results down"),
        ({**ROW, "prompt": ""}, "prompt"),
        ({**ROW, "id": 5}, "id"),
    ],
)
def test_a_fault_names_file_and_line(tmp_path: Path, row: dict[str, Any] | str, complaint: str) -> None:
    path = write(tmp_path / "s.jsonl", {**ROW, "id": "first"}, row)
    with pytest.raises(DataError) as caught:
        read_ratings(path)
    assert f"{path}:2" in caught.value.message and complaint in caught.value.message
    assert caught.value.hint


def test_ids_come_once_and_a_file_holds_something(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r":2: id 'a' was given on line 1"):
        read_ratings(write(tmp_path / "s.jsonl", {**ROW, "id": "a"}, {**ROW, "id": "a"}))
    with pytest.raises(DataError, match="there is no answer in it"):
        read_ratings(write(tmp_path / "s.jsonl"))
    with pytest.raises(DataError, match="cannot be read"):
        read_ratings(str(tmp_path / "gone.jsonl"))
