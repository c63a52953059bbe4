"""`validate`, `plan` and `run --dry-run` on a recipe as a person would write it."""

import json
from pathlib import Path

import pytest

from wavalign.engine.compile.plan import Plan
from wavalign_cli import app as application
from wavalign_cli.elsewhere import ELSEWHERE

RECIPE = """\
name: small
model: {architecture: {type: vita}, preset: tiny, tokenizer: tokenizer.json}
data:
  demonstrations: {type: jsonl, path: gold.jsonl}
objective:
  terms:
    sft: {loss: cross_entropy, tokens: text}
steps: 3
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return str(path)


@pytest.fixture
def broken(tmp_path: Path) -> str:
    path = tmp_path / "broken.yaml"
    path.write_text(RECIPE.replace("steps: 3", "stepps: 3\nseed: -1"), encoding="utf-8")
    return str(path)


def test_validate_says_what_it_would_run(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert application.main(["validate", recipe]) == 0
    assert capsys.readouterr().out.startswith(f"{recipe}: valid, 1 stage, 3 steps, plan ")
    assert application.main(["validate", recipe, "--set", "steps=5", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert found["stages"] == [{"name": "train", "type": "train", "steps": 5}]


def test_validate_reports_every_problem(broken: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert application.main(["validate", broken]) == 3
    told = capsys.readouterr().err
    assert "broken.yaml:8:" in told
    assert "broken.yaml:9:" in told
    assert "steps" in told.partition("stepps")[2]

    assert application.main(["validate", broken, "--format", "json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert [each["line"] for each in found["problems"]] == [8, 9]

    assert application.main(["validate", broken, "--format", "github"]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith("::error file=") for line in lines] == [True, True]


def test_validate_of_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert application.main(["validate", str(tmp_path / "none.yaml")]) == 3
    assert "none.yaml" in capsys.readouterr().err
    assert application.main(["validate", "no-recipe-of-this-name"]) == 2


def test_a_wrong_override_is_a_problem(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert application.main(["validate", recipe, "--set", "steps=soon"]) == 3
    assert "--set" in capsys.readouterr().err


def test_plan_as_json_is_the_plan(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert application.main(["plan", recipe, "--format", "json"]) == 0
    plan = Plan.from_json(capsys.readouterr().out)
    assert (plan.name, plan.total_steps) == ("small", 3)


def test_plan_as_tree_and_chart(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert application.main(["plan", recipe]) == 0
    told = capsys.readouterr().out
    assert "sft: cross_entropy over roles" in told
    assert "left out" in told
    assert application.main(["plan", recipe, "--format", "mermaid"]) == 0
    assert capsys.readouterr().out.startswith("flowchart TD\n")


def test_plan_against_another(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert application.main(["plan", recipe, "--diff", recipe]) == 0
    assert capsys.readouterr().out == "the plans are equal\n"
    assert application.main(["plan", recipe, "--set", "seed=3", "--diff", recipe]) == 0
    assert capsys.readouterr().out == "~ seed: 0 -> 3\n"


def test_a_difference_has_the_asked_format_or_none(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    other = ["plan", recipe, "--set", "seed=3", "--diff", recipe, "--format"]
    assert application.main([*other, "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"equal": False, "differences": ["~ seed: 0 -> 3"]}
    assert application.main(["plan", recipe, "--diff", recipe, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"equal": True, "differences": []}
    assert application.main([*other, "mermaid"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and "--diff has no chart" in told.err


@pytest.mark.parametrize("name", ELSEWHERE)
def test_commands_of_other_names_say_what_to_use(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert application.main([name, "some.yaml", "--set", "a=1"]) == 2
    told = capsys.readouterr().err
    assert f"there is no command {name} (asked for: wavalign {name} some.yaml --set a=1)" in told
    assert ELSEWHERE[name] in " ".join(told.split())
    assert application.main(["--help"]) == 0
    assert f" {name} " not in capsys.readouterr().out.split("Commands")[-1]


def test_a_dry_run_finds_what_is_missing(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert application.main(["run", recipe, "--dry-run"]) == 5
    told = capsys.readouterr()
    assert "gold.jsonl" in told.out
    assert told.err.startswith("error: train: ")
    assert application.main(["run", recipe, "--dry-run", "--format", "json"]) == 5
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert any("gold.jsonl" in each["message"] for each in found["findings"] if each["level"] == "error")


def test_a_run_that_cannot_be_resumed(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert application.main(["run", recipe, "--resume"]) == 2
    assert "no unfinished run" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_report_of_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert application.main(["report", str(tmp_path)]) == 5
    assert str(tmp_path) in capsys.readouterr().err


def test_plan_on_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    """The quickstart on two GPUs of another machine; what does not divide, and what is no machine, is said."""
    asked = ["plan", "quickstart", "--cluster", "gpus=2x80"]
    assert application.main(asked) == 0
    said = capsys.readouterr().out
    assert "quickstart on 1 x 2 GPUs of 80 GiB, 2 processes" in said
    assert "gradients: all_reduce of 0.00317 GB x 1" in said
    assert "runtime.checkpoint_every: " in said
    assert application.main([*asked, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["stages"]["train"]
    assert found["seconds"]["step"] == pytest.approx(sum(v for k, v in found["seconds"].items() if k != "step"))
    assert application.main(["plan", "quickstart", "--cluster", "gpus=3x80"]) == 3
    assert "16 prompts do not divide by 3 processes" in capsys.readouterr().err
    assert application.main(["plan", "quickstart", "--cluster", "gpus=many"]) == 2
    assert application.main([*asked, "--diff", "quickstart"]) == 2
