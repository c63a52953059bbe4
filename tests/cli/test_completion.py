"""What the shell offers after TAB."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wavalign_cli import completion


def test_recipes_by_name_and_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quick.yaml").touch()
    (tmp_path / "quick.txt").touch()
    (tmp_path / "quack").mkdir()
    (tmp_path / "quack" / "mine.yml").touch()
    assert completion.recipes("quick") == [
        "quickstart", "quickstart-codec-lm", "quickstart-kimi", "quickstart-natural", "quick.yaml",
    ]  # fmt: skip
    assert completion.recipes("qua") == ["quack/"]
    assert completion.recipes("quack/m") == ["quack/mine.yml"]
    assert completion.recipes(f"{tmp_path}/qui") == [f"{tmp_path}/quick.yaml"]
    assert "quick.txt" in completion.recipes_or_data("quick")
    assert completion.recipes("nowhere/x") == []


def test_plugins_and_kinds() -> None:
    assert completion.plugins("grp") == ["grpo"]
    assert completion.plugins("metric.speech") == ["metric.speech_quality"]
    assert completion.kinds("ga") == ["gate"]
    assert completion.data_types("par") == ["parquet"]
    assert completion.headings("de") == ["demonstrations"]


def test_keys_of_a_recipe_one_level_at_a_time() -> None:
    assert "optim." in completion.settings("opt")
    assert "steps=" in completion.settings("st")
    assert "optim.learning_rate=" in completion.settings("optim.learn")
    assert "optim.schedule.warmup_steps=" in completion.settings("optim.schedule.w")
    assert "runtime.checkpoint_every=" in completion.settings("runtime.ch")
    assert completion.settings("steps=1") == []
    assert "runtime.engine." in completion.settings("runtime.")
    assert not any("engine.t" in key for key in completion.settings("runtime."))


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("wavalign validate quickst", "quickstart-kimi"),
        ("wavalign plugins show gr", "grpo"),
        ("wavalign recipes copy quick", "quickstart"),
        ("wavalign run x.yaml --set runtime.proc", "runtime.processes="),
        ("wavalign data show x.yaml --heading pro", "prompts"),
        ("wavalign doctor quicks", "quickstart"),
    ],
)
def test_the_command_offers_them_without_torch(words: str, offered: str) -> None:
    code = (
        "import sys\nfrom wavalign_cli.app import app\n"
        "try:\n    app(prog_name='wavalign')\nfinally:\n    print('torch' in sys.modules, file=sys.stderr)"
    )
    environment = {
        **os.environ,
        "_WAVALIGN_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert offered in result.stdout.split()
    assert result.stderr.strip() == "False"
