"""`wavalign evaluate`: what a person sees, and what is said where something is missing."""

import json
from pathlib import Path

import pytest

from tests.toy.world import NUMBERS, toy_recipe, write_recipe
from wavalign_cli import app as application

Said = pytest.CaptureFixture[str]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    rows = [{"WavPath": None, "Question": f"{one} plus one", "Answer": one} for one in NUMBERS]
    (tmp_path / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return write_recipe(tmp_path, toy_recipe(tmp_path))


def test_a_table_with_intervals_and_where_things_are(recipe: str, capsys: Said) -> None:
    assert application.main(["evaluate", recipe, "--on", "qa.jsonl"]) == 0
    told = capsys.readouterr()
    out = "evaluations/toy/ultraeval-qa"
    assert "random weights of preset tiny" in told.out and "ultraeval qa: 6 questions, 6 answered now" in told.out
    assert "contains  0.000 [0.000, 0.390]  6" in told.out
    assert f"answers for the suite  {out}/last_res.jsonl" in told.out and told.out.endswith(f"folder  {out}\n")
    assert "no sound" in told.err
    assert application.main(["evaluate", recipe, "--on", "qa.jsonl", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["drawn"], found["answers"], found["values"]["exact"]["count"]) == (0, 6, 6)


def test_two_models_compared(recipe: str, tmp_path: Path, capsys: Said) -> None:
    assert application.main(["run", recipe, "--quiet"]) == 0
    ask = ["evaluate", recipe, "--against", "run", "--on", "qa.jsonl", "--out", "both"]
    assert application.main(ask) == 0
    told = capsys.readouterr().out
    assert "6 questions both answered" in told and "A  recipe toy" in told
    assert application.main(["evaluate", "--compare", "both/a", "both/b", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["common"] == 6
    rates = [each[side] for each in found["values"].values() for side in ("wins", "ties", "losses")]
    assert sum(rates) == pytest.approx(len(found["values"])) and found["values"]


@pytest.mark.parametrize(
    ("arguments", "said", "hint"),
    [
        ([], "the model is missing", "wavalign evaluate RUN --on"),
        (["toy.yaml"], "--on DATA is missing", "wavalign evaluate RUN --on"),
        (["toy.yaml", "--on", "none.jsonl"], "none.jsonl: the data file cannot be opened", "check the path"),
        (["toy.yaml", "--on", "odd.jsonl"], "odd.jsonl:1: no known benchmark has the columns quiz", "VoiceBench has"),
        (["./no-run", "--on", "qa.jsonl"], "there is no file and no folder ./no-run", "name a recipe, a run"),
        (["toy.yaml", "--on", "qa.jsonl", "--at", "step-2"], "--at and --recipe go with a folder", "leave them out"),
        (["toy.yaml", "--compare", "a", "b"], "--compare takes two folders and nothing else", ""),
        (["--compare", "a", "b"], "a holds no evaluation that is complete", "--out FOLDER"),
        (["toy.yaml", "--against", "toy.yaml", "--on", "qa.jsonl"], "both models would answer into", "--out FOLDER"),
    ],
)
def test_what_is_missing_is_said(
    recipe: str, tmp_path: Path, capsys: Said, arguments: list[str], said: str, hint: str
) -> None:
    assert Path(recipe).name == "toy.yaml"
    (tmp_path / "odd.jsonl").write_text('{"quiz": "?"}\n')
    assert application.main(["evaluate", *arguments]) in (2, 5)
    told = capsys.readouterr().err
    assert said in told and hint in told


def test_ctrl_c_says_that_it_can_go_on(recipe: str, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wavalign.engine.step.rollouts.Roller.sample", interrupted)
    assert application.main(["evaluate", recipe, "--on", "qa.jsonl"]) == 130
    assert "interrupted: the same command goes on" in capsys.readouterr().err
