import gzip
import json
from pathlib import Path

import pytest

from tests.plugins.data.sounds import ready, streamed
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


def test_a_pair_has_two_sides_and_one_side_alone_keeps_its_number(tmp_path: Path) -> None:
    asked = {"messages": [{"role": "user", "text": "hi"}]}
    chosen, rejected = {"codes": [3, 1, 4], "audio": "a.wav", "score": 0.5}, {"text": "no", "codes": [1]}
    lines = [asked | {"chosen": chosen, "rejected": rejected}, asked | {"rejected": rejected}]
    pair, alone = (opened(tmp_path / "d.jsonl", *map(json.dumps, lines)).record(index) for index in (0, 1))
    assert (pair.members, pair.scores, pair.target) == ((0, 1), (0.5, None), None)
    assert pair.targets[0].audio == AudioClip(f"{tmp_path}/a.wav", (3, 1, 4))
    assert pair.targets[1].audio == AudioClip.of_codes([1]) and not AudioClip.of_codes([1]).has_sound
    assert [(member, single.target) for member, single in pair.numbered] == list(enumerate(pair.targets))
    assert (alone.members, alone.scores, alone.targets[0].text) == ((1,), (), "no")
    with pytest.raises(DataError, match=r"d.jsonl:1.*a record has a `target`, or a `chosen` and a `rejected` side"):
        opened(tmp_path / "d.jsonl", json.dumps(GOOD | {"chosen": chosen}))
    with pytest.raises(DataError, match=r"it is there as codes alone"):
        audio.read(AudioClip.of_codes([1]), sample_rate=None)


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
        ('{"messages": [{"role": "user"}]}', r"messages\.0 is empty: it has neither words nor sound"),
        ('{"messages": [{"role": "user", "text": "  "}]}', r"messages\.0 is empty"),
        ('{"messages": [{"role": "user", "text": "a"}], "target": {"text": ""}}', "target is empty"),
        (
            '{"messages": [{"role": "user", "text": "a"}], "chosen": {"codes": [1]}, "rejected": {"codes": [1]}}',
            "chosen and rejected are the same answer: there is nothing to prefer",
        ),
        ('{"messages": [{"role": "user", "text": "a"}], "chosen": {"text": "a"}, "rejected": {}}', "rejected is empty"),
        ('{"messages": [{"role": "user", "text": "a"}], "rejected": {"codes": []}}', r"rejected\.codes: List should"),
        ('{"messages": [{"role": "user", "text": "a"}], "target": {"codes": [3, -1]}}', r"target\.codes: an id is"),
        (
            '{"messages": [{"role": "user", "text": "a"}], "target": {"text": " ", "audio": "a.wav"}}',
            "target.text is blank",
        ),
        ('{"messages": [{"role": "user", "text": "a"}], "metadata": {"x": NaN}}', "NaN is no number of JSON"),
        ('{"messages": [{"role": "user", "text": "a"}], "metadata": {"x": [1e999]}}', "number 1e999 is too large"),
        ('{"messages": [{"role": "user", "text": "a \\ud800"}]}', r"messages\.0\.text: half a surrogate pair"),
        ('{"messages": [{"role": "user", "text": "a"}], "metadata": {"\\udfff": 1}}', "half a surrogate pair"),
        ('{"id": "a", "messages": [{"role": "user", "text": "a"}], "id": "b"}', "the key 'id' stands twice"),
        ('{"messages": [{"role": "user", "text": "a"}], "metadata": {"x": ' + "9" * 5000 + "}}", "5000 digits"),
        ('{"metadata": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ("{}".encode("utf-16"), "UTF-16, not UTF-8"),
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


def line(name: str) -> str:
    return json.dumps(GOOD | {"id": name}) + "\n"


def test_several_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    """A folder, a pattern, a list; packed files are unpacked; names of rows tell the files apart."""
    (tmp_path / "d/sub").mkdir(parents=True)
    (tmp_path / "d/b.jsonl").write_text(json.dumps(GOOD) + "\n" + line("x"))
    (tmp_path / "d/sub/a.jsonl.gz").write_bytes(gzip.compress((json.dumps(GOOD) + "\n").encode()))
    (tmp_path / "d/.hidden.jsonl").write_text("no data")
    folder = Jsonl(JsonlParams(path=f"{tmp_path}/d"), seed=0)
    found = ready(folder)
    assert [each.id for each in found] == ["b.jsonl:line-1", "x", "sub/a.jsonl.gz:line-1"]
    assert found[2].messages[0].audio == AudioClip(f"{tmp_path}/d/sub/a/q.wav")
    listed = (f"{tmp_path}/d/b.jsonl", f"{tmp_path}/d/sub/*.gz")
    assert ready(Jsonl(JsonlParams(path=listed), seed=0)) == found
    assert streamed(Jsonl(JsonlParams(path=listed, streaming=True), seed=0)) == found
    (tmp_path / "d/sub/a.jsonl.gz").write_bytes(gzip.compress(line("x").encode()))
    with pytest.raises(DataError, match=rf"a\.jsonl\.gz:1: id 'x' was given at {tmp_path}/d/b\.jsonl:2 already"):
        ready(folder)
    (tmp_path / "d/b.jsonl").write_text("")
    with pytest.raises(DataError, match=r"b\.jsonl: the data file is empty"):
        ready(folder)


def test_a_packed_file_cut_short_is_named(tmp_path: Path) -> None:
    whole = gzip.compress("".join(line(str(n)) for n in range(50)).encode())
    (tmp_path / "d.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"d\.jsonl\.gz: the data file cannot be read to its end"):
        ready(Jsonl(JsonlParams(path=f"{tmp_path}/d.jsonl.gz"), seed=0))


def test_reading_begins_at_any_line(tmp_path: Path) -> None:
    """Places count bytes, so letters of several bytes must not shift them; errors name the line all the same."""
    lines = [line(name) for name in ("a", "ä€", "c")]
    (tmp_path / "d.jsonl").write_text("".join(lines).replace("\\u00e4", "ä") + "{")
    source = Jsonl(JsonlParams(path=f"{tmp_path}/d.jsonl", streaming=True), seed=0)
    source.prepare(lambda *_: None)
    stream = source.stream()
    assert stream is not None
    reading = stream.open(0, ())
    whole = [next(reading) for _ in lines]
    for index, record in enumerate(whole):
        again = stream.open(0, record.start)
        assert [next(again) for _ in whole[index:]] == whole[index:]
        with pytest.raises(DataError, match=r"d\.jsonl:4: not a JSON object"):
            next(again)


def test_looking_finds_every_complaint_and_goes_on(tmp_path: Path) -> None:
    bad = '{"messages": [{"role": "robot", "text": 3}]}\n'
    (tmp_path / "d.jsonl").write_text(line("a") + bad + "\n" + line("b"))
    found = list(Jsonl(JsonlParams(path=f"{tmp_path}/d.jsonl"), seed=0).inspect())
    assert [where.removeprefix(f"{tmp_path}/d.jsonl:") for where, _ in found] == ["1", "2", "2", "3", "4"]
    words = [each.message.partition(".jsonl:")[2] for _, each in found if isinstance(each, DataError)]
    assert [word.split(": ")[:2] for word in words] == [
        ["2", "messages.0.role"], ["2", "messages.0.text"], ["3", "not a JSON object"],
    ]  # fmt: skip


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    source = opened(tmp_path / "d.jsonl", b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), json.dumps(GOOD))
    assert len(source) == 2


def test_an_answer_may_be_sound_alone(tmp_path: Path) -> None:
    record = {"messages": [{"role": "user", "text": "read"}], "target": {"audio": "a.wav"}}
    source = opened(tmp_path / "d.jsonl", json.dumps(record))
    target = source.record(0).target
    assert target is not None and target.text == "" and target.audio is not None


def test_records_know_where_they_were_read(tmp_path: Path) -> None:
    source = opened(tmp_path / "d.jsonl", json.dumps(GOOD), json.dumps(GOOD))
    assert source.record(1).label == f"{tmp_path}/d.jsonl:2: dialogue line-2"


def test_bad_records_may_be_dropped_and_are_counted(tmp_path: Path) -> None:
    empty = json.dumps({"messages": [{"role": "user", "text": "a"}], "target": {"text": ""}})
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join([json.dumps(GOOD), empty, '{"messages": []}', json.dumps(GOOD)]), encoding="utf-8")
    source, said = Jsonl(JsonlParams(path=str(path), on_bad="drop"), seed=0), list[str]()
    source.prepare(lambda what, done, total: said.append(what))
    assert len(source) == 2
    assert said == ["reading: 2 of 4 records left out, as the recipe says"]
    with pytest.raises(ValueError, match="a stream cannot say"):
        JsonlParams(path=str(path), on_bad="drop", streaming=True)


def test_looking_and_running_agree_on_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text("", encoding="utf-8")
    source = Jsonl(JsonlParams(path=str(path)), seed=0)
    ((where, found),) = source.inspect()
    assert where == str(path) and isinstance(found, DataError) and "is empty" in found.message
    with pytest.raises(DataError, match="is empty"):
        source.prepare(lambda what, done, total: None)
