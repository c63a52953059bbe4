"""`wavalign schema`."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from wavalign_cli import app as application


def test_it_is_a_json_schema_with_every_loss(capsys: pytest.CaptureFixture[str]) -> None:
    assert application.main(["schema"]) == 0
    made = json.loads(capsys.readouterr().out)
    Draft202012Validator.check_schema(made)
    assert {"loss.grpo", "loss.kl", "loss.cross_entropy"} <= set(made["$defs"])
    assert "clip" in made["$defs"]["loss.grpo"]["properties"]


def test_it_is_written_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.schema.json"
    assert application.main(["schema", "--output", str(path)]) == 0
    assert json.loads(path.read_text(encoding="utf-8"))["title"] == "WavAlign recipe"
    told = capsys.readouterr()
    assert told.out == ""
    assert f"$schema={path}" in told.err
    assert '"yaml.customTags": ["!replace mapping", "!replace sequence", "!replace scalar"]' in told.err


def test_a_file_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert application.main(["schema", "--output", str(tmp_path / "none" / "x.json")]) == 1
    assert "cannot be written" in capsys.readouterr().err
