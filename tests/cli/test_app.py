"""Help, usage, and how errors leave the process."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wavalign import __version__
from wavalign.errors import (
    CheckpointError,
    Interrupted,
    NonFiniteError,
    PluginError,
    PreflightError,
    Problem,
    RecipeError,
    ResumeError,
    RewardBudgetError,
    UsageError,
    WavAlignError,
    Where,
)
from wavalign_cli import app as application
from wavalign_cli.console import Format, output_format

COMMANDS = (
    "run", "validate", "plan", "recipes", "plugins", "data", "schema", "report", "listen", "evaluate", "export",
    "doctor", "judge",
)  # fmt: skip


def call(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "wavalign_cli", *arguments]
    settings = {**os.environ, "COLUMNS": "80", **(environment or {})}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=settings)


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException, form: Format = Format.TEXT) -> int:
    """Exit code of the command line when a command raises `error`."""

    def command(arguments: object) -> None:
        output_format.set(form)
        raise error

    monkeypatch.setattr(application, "app", command)
    code = application.main([])
    assert isinstance(code, int)
    return code


PROBLEM = Problem("bad_value", "optim.steps", "must be positive", "write 10", Where("a.yaml", 3, 5, "  steps: -1"))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NonFiniteError("loss is NaN"), 1),
        (UsageError("no such thing"), 2),
        (RecipeError([PROBLEM]), 3),
        (PluginError("broken"), 4),
        (PreflightError("disk full"), 5),
        (CheckpointError("torn"), 5),
        (RewardBudgetError("too many"), 6),
        (ResumeError("another plan"), 7),
        (Interrupted(signal.SIGINT, "checkpoints/step-3"), 130),
        (Interrupted(signal.SIGTERM, "checkpoints/step-3"), 143),
    ],
)
def test_every_error_has_its_exit_code(monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int) -> None:
    assert raising(monkeypatch, error) == code


def test_an_error_is_told_with_its_hint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    raising(monkeypatch, PreflightError("the disk is full", hint="free some space"))
    told = capsys.readouterr()
    assert told.err == "error: the disk is full\n  hint: free some space\n"
    assert told.out == ""


def test_an_error_as_json_is_one_object(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    raising(monkeypatch, PluginError("broken", hint="mend it"), Format.JSON)
    expected = {"code": "plugin_failed", "message": "broken", "hint": "mend it"}
    assert json.loads(capsys.readouterr().out) == {"ok": False, "error": expected}


def test_an_error_as_annotation_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, WavAlignError("a 100% failure", hint="again"), Format.GITHUB)
    assert capsys.readouterr().out == "::error title=run_failed::a 100%25 failure%0Ahint: again\n"


def test_problems_in_three_forms(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    raising(monkeypatch, RecipeError([PROBLEM]))
    text = capsys.readouterr().err
    assert "a.yaml:3:5" in text
    assert "steps: -1" in text
    assert text.endswith("error: 1 problem in the recipe\n")

    raising(monkeypatch, RecipeError([PROBLEM]), Format.JSON)
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["error"]["code"]) == (False, "recipe_invalid")
    assert [(each["code"], each["line"], each["path"]) for each in found["problems"]] == [
        ("bad_value", 3, "optim.steps")
    ]

    raising(monkeypatch, RecipeError([PROBLEM]), Format.GITHUB)
    assert capsys.readouterr().out.startswith("::error file=a.yaml,line=3,col=5,title=bad_value::")


def test_an_interruption_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    raising(monkeypatch, Interrupted(signal.SIGINT, "checkpoints/step-3"))
    told = capsys.readouterr().err
    assert "checkpoints/step-3" in told
    assert "--resume" in told
    raising(monkeypatch, Interrupted(signal.SIGINT))
    assert "--resume" not in capsys.readouterr().err


def test_a_fault_leaves_its_traceback_in_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert raising(monkeypatch, ZeroDivisionError("by zero")) == 1
    told = capsys.readouterr().err
    (log,) = tmp_path.iterdir()
    assert str(log) in told
    assert "Traceback" not in told
    assert "Traceback" in log.read_text(encoding="utf-8")
    assert __version__ in log.read_text(encoding="utf-8")


def test_help_names_every_command() -> None:
    result = call("--help")
    assert result.returncode == 0
    for name in COMMANDS:
        assert f"\n  {name} " in result.stdout
    assert "..." not in result.stdout.partition("Commands:")[2], "a line of help is cut off"


@pytest.mark.parametrize("arguments", [(name, "--help") for name in COMMANDS])
def test_each_command_explains_itself(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert application.main(list(arguments)) == 0
    told = capsys.readouterr().out
    assert "\x1b[" not in told
    assert max(len(line) for line in told.splitlines()) <= 60


def test_help_of_run_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert application.main(["run", "--help"]) == 0
    assert "wavalign run my.yaml --resume" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert application.main(["--version"]) == 0
    assert capsys.readouterr().out == f"wavalign {__version__}\n"


@pytest.mark.parametrize("arguments", [["frobnicate"], ["run"], ["validate", "x.yaml", "--format", "xml"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert application.main(arguments) == 2
    assert capsys.readouterr().out == ""
