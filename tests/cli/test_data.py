"""`wavalign data check` on files and recipes as a person has them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.toy.world import toy_recipe, write_recipe
from wavalign_cli import app as application

GOOD = {"messages": [{"role": "user", "text": "one plus one"}], "target": {"text": "it is two"}}
RESEARCH = {"messages": [{"role": "user", "content": "hi"}], "sft_target_text": "yo"}


def write(path: Path, *records: dict[str, Any] | str) -> str:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def check(*arguments: str) -> int:
    code = application.main(["data", "check", *arguments])
    assert isinstance(code, int)
    return code


def test_a_file_that_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(write(tmp_path / "gold.jsonl", GOOD, {**GOOD, "metadata": {"style": "sad"}})) == 0
    told = capsys.readouterr()
    assert f"data: {tmp_path}/gold.jsonl (jsonl): 2 records\n" in told.out
    assert "user.text     2 have it  0 do not  12 to 12 characters, median 12" in told.out
    assert "target.audio  0 have it  2 do not\n" in told.out
    assert "roles: user 2, target 2" in told.out and "metadata: style 1" in told.out
    assert told.err == "nothing is wrong\n"


def test_everything_that_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two complaints about one line, a torn line, a missing sound, an id given twice."""
    bad = {"messages": [{"role": "robot", "text": 3}]}
    unheard = {"id": "x", "messages": [{"role": "user", "text": "", "audio": "none.wav"}]}
    path = write(tmp_path / "gold.jsonl", bad, GOOD, json.dumps(GOOD)[:9], unheard, {**GOOD, "id": "x"})
    assert check(path) == 1
    told = capsys.readouterr()
    lines = [line.removeprefix(f"{path}:") for line in told.out.splitlines() if line.startswith(f"{path}:")]
    assert [line[:22] for line in lines] == [
        "1: messages.0.role: In", "1: messages.0.text: In", "3: not a JSON object: ", f"4: user.audio: {path}"[:22],
        "5: id 'x' was given at",
    ]  # fmt: skip
    assert told.out.count("\n  hint: ") == 5 and told.err == "5 problems\n"
    assert check(path, "--no-audio", "--format", "json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False and len(found["problems"]) == 4
    assert found["headings"][0]["records"] == 3 and found["headings"][0]["bad"] == 2
    assert check(path, "--limit", "1", "--format", "github") == 1
    assert capsys.readouterr().out.count("::error title=data::") == 1


def test_the_kind_is_guessed_or_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.jsonl", RESEARCH)
    for arguments, kind in (((path,), "research_jsonl"), ((str(tmp_path),), "research_jsonl")):
        assert check(*arguments) == 0
        assert f"({kind}): 1 records" in capsys.readouterr().out
    assert check(path, "--type", "jsonl") == 1
    assert "messages.0.content: Extra inputs" in capsys.readouterr().out
    (tmp_path / "README.md").write_text("# data")
    assert check(str(tmp_path), "--set", "columns.text=sft_target_text") == 0
    assert "(hf_dataset): 1 records" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("data.txt",), "its name does not say"),
        (("a.jsonl", "--tokens"), "are for recipes"),
        (("a.jsonl", "--set", "columns"), "not of the form KEY=VALUE"),
        (("a.jsonl", "--set", "path=x", "--set", "path.y=1"), "path has a value already"),
        (("a.jsonl", "--set", "x=["), "not a YAML value"),
        (("a.jsonl", "--set", "colums=1"), "source jsonl: colums: Extra"),
        (("a.jsonl", "--type", "jsnl"), "no data named 'jsnl'"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(*arguments) in (2, 4)
    assert words in capsys.readouterr().err


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(str(tmp_path / "none.jsonl")) == 1
    assert "none.jsonl: the data file cannot be opened" in capsys.readouterr().out


def recipe(folder: Path) -> str:
    """Demonstrations from a file, one bad; the held-out sums are those of the prompts."""
    write(folder / "gold.jsonl", GOOD, {"messages": [{"role": "user", "text": "two"}]})
    content = toy_recipe(folder)
    content["data"]["demonstrations"] = {"type": "jsonl", "path": "gold.jsonl"}
    content["data"]["evaluation"] = {"heldout": {"type": "toy_sums", "limit": 2}}
    return write_recipe(folder, content)


def test_the_headings_of_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe(tmp_path)
    assert check(path, "--tokens", "--format", "json") == 1
    found = json.loads(capsys.readouterr().out)
    assert [each["heading"] for each in found["headings"]] == ["prompts", "demonstrations", "evaluation.heldout"]
    assert [each["message"].removeprefix(f"{tmp_path}/") for each in found["problems"]] == [
        "gold.jsonl:2: there is no target to imitate",
        "record 0: the same prompt is trained on: prompts, record 0",
        "record 1: the same prompt is trained on: prompts, record 1",
    ]
    tokens = {each["name"]: each["spread"] for each in found["headings"][1]["columns"] if each["unit"] == "tokens"}
    # The one target is `it is two` and its end.
    assert tokens["target.tokens"] == {"count": 1, "low": 4.0, "median": 4.0, "p95": 4.0, "high": 4.0, "total": 4.0}
    assert check(path, "--heading", "prompts") == 0
    assert "demonstrations" not in capsys.readouterr().out
    assert check(path, "--heading", "prompt") == 2
    assert "it has: prompts, demonstrations, evaluation.heldout" in capsys.readouterr().err
    assert check(path, "--set", "stepps=3") == 3


def test_tokens_wait_for_a_codec_that_is_fitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe(tmp_path)
    given = "stages=[{name: codec, type: fit_codec}, {name: train}]"
    assert check(path, "--tokens", "--set", given, "--set", "model.codec.type=source_filter") == 2
    assert "before its codec is fitted" in capsys.readouterr().err


def test_a_terminal_sees_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    assert check(write(tmp_path / "gold.jsonl", GOOD)) == 0
    assert "what it holds" in capsys.readouterr().out
