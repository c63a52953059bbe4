"""`wavalign data show`: rows as the model sees them, of one's own data."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.toy.world import toy_recipe, write_recipe
from wavalign_cli import app as application

CODEC_LM = {"type": "codec_lm", "template": "speechgpt", "num_codes": 4}
KIMI = {"type": "kimi", "num_codes": 4, "output": "text"}


def recipe(folder: Path, architecture: dict[str, Any] | None = None) -> str:
    gold = [
        {"id": "good", "messages": [{"role": "user", "text": "one plus one"}], "target": {"text": "it is two"}},
        {"id": "other", "messages": [{"role": "user", "text": "one plus two"}], "target": {"text": "it is three"}},
    ]
    (folder / "gold.jsonl").write_text("".join(json.dumps(line) + "\n" for line in gold), encoding="utf-8")
    content = toy_recipe(folder)
    content["data"]["demonstrations"] = {"type": "jsonl", "path": "gold.jsonl"}
    content["objective"]["terms"]["sft"]["tokens"] = {"text": 0.5}
    if architecture is not None:
        content["model"]["architecture"] = architecture
    return write_recipe(folder, content)


def show(*arguments: str) -> int:
    code = application.main(["data", "show", *arguments])
    assert isinstance(code, int)
    return code


def test_a_row_as_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(recipe(tmp_path), "--heading", "demonstrations") == 0
    told = capsys.readouterr().out
    lines = told.splitlines()
    assert lines[0] == "P prompt  T text  E text_end  A audio  M audio_mark  F forced"
    assert lines[2].startswith("demonstrations: good: ") and lines[2].endswith(" of the target")
    assert '  user: "one plus one"' in lines and '  target: "it is two"' in lines
    assert "  stream mix" in lines
    row = [line.split(maxsplit=3) for line in lines if '"two"' in line and " T " in line]
    assert len(row) == 1 and row[0][1] == "T" and row[0][3].split() == ['"two"', "sft", "0.5"]
    prompt = next(line for line in lines if '"plus"' in line)
    assert " P " in prompt and "sft" not in prompt
    assert lines[-1].startswith("  term sft: ") and "text 3" in lines[-1]
    assert "\x1b" not in told


def test_rows_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(recipe(tmp_path), "--count", "2", "--format", "json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["heading"], row["dialogue"]) for row in rows] == [
        ("prompts", "sum-0-0"), ("prompts", "sum-3-0"), ("demonstrations", "good"), ("demonstrations", "other"),
    ]  # fmt: skip
    assert [[term["name"] for term in row["terms"]] for row in rows] == [["rl", "rl.kl"]] * 2 + [["sft"]] * 2
    good = rows[2]
    tokens = good["streams"][0]["tokens"]
    assert len(tokens) == good["prompt_length"] + good["target_length"]
    assert {token["role"] for token in tokens[: good["prompt_length"]]} == {"prompt"}
    answer = tokens[good["prompt_length"] :]
    assert [token["text"] for token in answer[:3]] == ["it", "is", "two"]
    assert [token["weights"] for token in answer[:3]] == [{"sft": 0.5}] * 3
    weighed = sum(sum(token["weights"].values()) for token in tokens)
    assert good["terms"][0]["weight"] == pytest.approx(weighed)


@pytest.mark.parametrize(("architecture", "streams"), [(CODEC_LM, ["mix"]), (KIMI, ["text", "audio"])])
def test_every_family_has_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], architecture: dict[str, Any], streams: list[str]
) -> None:
    assert show(recipe(tmp_path, architecture), "--heading", "demonstrations", "--format", "json") == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert [stream["name"] for stream in row["streams"]] == streams
    texts = [token["text"] for token in row["streams"][0]["tokens"] if token["role"] == "text"]
    assert texts[-3:] == ["it", "is", "two"] or texts[:3] == ["it", "is", "two"]


def test_held_out_rows_are_learned_from_by_no_term(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(recipe(tmp_path), "--heading", "evaluation", "--format", "json") == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["heading"].startswith("evaluation.") and row["terms"] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--heading", "golds"), "no data.golds"),
        (("--stage", "warm"), "no stage 'warm'"),
        (("--count", "0"), "greater than or equal to 1"),
    ],
)
def test_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert show(recipe(tmp_path), *arguments) == 2
    assert words in capsys.readouterr().err


def test_a_terminal_sees_roles_in_colour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe(tmp_path)
    lines: list[str] = []  # what a pipe gets would lose its colours again
    monkeypatch.setattr("wavalign_cli.show_rows.is_coloured", lambda stream: True)
    monkeypatch.setattr("wavalign_cli.show_rows.say_painted", lines.append)
    assert show(path) == 0
    assert any(line.startswith("    \x1b[94m") and '"it"' in line for line in lines)


def test_long_runs_of_codes_are_cut_in_the_middle(capsys: pytest.CaptureFixture[str]) -> None:
    from wavalign.engine.run.preview import RowView, StreamView, TokenView
    from wavalign_cli.show_rows import show_rows

    codes = [TokenView(t, t, f"<code {t}>", "audio", {"sft": 1.0}) for t in range(20)]
    words = [TokenView(20 + t, t, "word", "text", {}) for t in range(20)]
    row = RowView("demonstrations", "x\x1b", (), 0, 40, (), (StreamView("mix", (*codes, *words)),), ())
    show_rows([row], every=False)
    told = capsys.readouterr().out
    assert "... 14 more like these (--all)" in told
    assert "<code 2>" in told and "<code 3>" not in told and "<code 17>" in told
    assert told.count('"word"') == 20, "text is never left out"
    assert "\x1b" not in told
    show_rows([row], every=True)
    assert "<code 9>" in capsys.readouterr().out
