import json
from pathlib import Path

import pytest

from tests.plugins.spoken import say
from wavalign.errors import DataError
from wavalign.plugins import audio
from wavalign.plugins.batch import AudioClip
from wavalign.plugins.data.jsonl import Jsonl, JsonlParams

GOOD = {"messages": [{"role": "user", "text": "hi", "audio": "a/q.wav"}], "target": {"text": "yo", "audio": "/x/y.wav"}}


def opened(path: Path, *lines: str | bytes) -> Jsonl:
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
    source = Jsonl(JsonlParams(path=str(path)), seed=0)
    source.prepare(lambda what, done, total: None)
    return source


def test_records_come_in_order_with_paths_counted_from_the_file(tmp_path: Path) -> None:
    second = {"id": "b", "messages": [{"role": "system", "text": "s"}], "metadata": {"style": "sad", "n": [1]}}
    source = opened(tmp_path / "d.jsonl", json.dumps(GOOD), json.dumps(second))
    assert len(source) == 2
    first = source.record(0)
    assert first.id == "line-1" and first.messages[0].audio == AudioClip(f"{tmp_path}/a/q.wav")
    assert first.target is not None and first.target.role == "assistant"
    assert first.target.audio == AudioClip("/x/y.wav") and first.metadata == {}
    assert source.record(1).target is None and source.record(1).metadata == {"style": "sad", "n": [1]}


def test_addresses_stay_addresses(tmp_path: Path) -> None:
    remote = {"messages": [{"role": "user", "text": "", "audio": "s3://b/q.wav"}]}
    (tmp_path / "d.jsonl").write_text(json.dumps(GOOD | {"id": "x"}) + "\n" + json.dumps(remote))
    source = Jsonl(JsonlParams(path=f"file://{tmp_path}/d.jsonl"), seed=0)
    source.prepare(lambda what, done, total: None)
    assert source.record(0).messages[0].audio == AudioClip(f"file://{tmp_path}/a/q.wav")
    assert source.record(1).messages[0].audio == AudioClip("s3://b/q.wav")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (json.dumps(GOOD)[:-10], "not a JSON object"),
        ("", "not a JSON object"),
        (b"\xff\xfe", "not UTF-8"),
        ("[]", "valid dictionary"),
        ('{"target": {"text": "a"}}', "messages: Field required"),
        ('{"messages": []}', "at least 1 item"),
        ('{"messages": [{"role": "robot", "text": "a"}]}', r"messages\.0\.role"),
        ('{"messages": [{"role": "user"}]}', r"messages\.0\.text: Field required"),
        ('{"messages": [{"role": "user", "text": 3}]}', r"messages\.0\.text"),
        ('{"messages": [{"role": "user", "text": "a", "sound": "b"}]}', r"messages\.0\.sound"),
        ('{"messages": [{"role": "user", "text": "a"}], "target": "a"}', "target"),
        ('{"id": 4, "messages": [{"role": "user", "text": "a"}]}', "id"),
        ('{"messages": [{"role": "user", "text": "a", "audio": ""}]}', r"messages\.0\.audio"),
    ],
)
def test_a_bad_record_is_named_by_file_and_line(tmp_path: Path, line: str | bytes, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint) as caught:
        opened(tmp_path / "d.jsonl", json.dumps(GOOD), line, json.dumps(GOOD))
    assert caught.value.message.startswith(f"{tmp_path}/d.jsonl:2: ") and caught.value.hint


def test_one_id_for_two_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"d\.jsonl:3: id 'a' was given on line 1"):
        opened(tmp_path / "d.jsonl", *(json.dumps(GOOD | {"id": name}) for name in "aba"))


def test_no_file_and_no_record_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"d\.jsonl: the data file is empty"):
        opened(tmp_path / "d.jsonl")
    with pytest.raises(DataError, match=r"none\.jsonl: the data file cannot be opened"):
        Jsonl(JsonlParams(path=str(tmp_path / "none.jsonl")), seed=0).prepare(lambda *_: None)


def test_sound_is_looked_for_when_it_is_needed(tmp_path: Path) -> None:
    clip = opened(tmp_path / "d.jsonl", json.dumps(GOOD)).record(0).messages[0].audio
    assert clip is not None
    with pytest.raises(DataError, match=r"a/q\.wav"):
        audio.read(clip, sample_rate=None)
    (tmp_path / "a").mkdir()
    audio.write(say("it is two"), tmp_path / "a/q.wav")
    assert audio.read(clip, sample_rate=None).seconds > 0.4
