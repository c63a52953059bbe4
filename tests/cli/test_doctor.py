"""`wavalign doctor`."""

import json
import shutil
from pathlib import Path

import pytest

from tests.toy.world import toy_recipe, write_recipe
from wavalign_cli import app as application
from wavalign_cli import doctor
from wavalign_cli.doctor import Finding, Verdict


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing DeepSpeed takes seconds and is tested where it is used."""
    monkeypatch.setattr(doctor, "look_at_deepspeed", lambda: Finding("deepspeed", Verdict.OK, "1"))


def test_what_is_needed_here_is_here(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert application.main(["doctor", "--folder", str(tmp_path / "runs"), "--json"]) == 0
    found = {each["what"]: each["verdict"] for each in json.loads(capsys.readouterr().out)}
    assert found["python"] == found["torch"] == found["run folder"] == "ok"
    assert found["bf16 on the CPU"] == "ok"
    assert not (tmp_path / "runs").exists()


def test_a_missing_package_is_named() -> None:
    finding = doctor.look_at_packages("speech", ("json", "nothing_of_this_name"), "install it", Verdict.MISSING)
    assert finding.verdict is Verdict.MISSING
    assert "nothing_of_this_name" in finding.detail
    assert finding.hint == "install it"


def test_what_is_optional_and_missing_is_said_and_only_strictly_an_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "EXTRAS", {"speech": ("json",), "wandb": ("nothing_of_this_name",)})
    where = ["--folder", str(tmp_path)]
    assert application.main(["doctor", *where]) == 0
    assert "ready; optional and missing: wandb" in capsys.readouterr().err
    assert application.main(["doctor", *where, "--strict"]) == 5
    assert "not ready: wandb" in capsys.readouterr().err


@pytest.mark.parametrize(("tracker", "code"), [("tensorboard", 0), ("wandb", 5)])
def test_what_a_recipe_needs_must_be_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str, code: int
) -> None:
    monkeypatch.setattr(doctor, "EXTRAS", {"tensorboard": ("json",), "wandb": ("nothing_of_this_name",)})
    recipe = write_recipe(tmp_path, toy_recipe(tmp_path, trackers=[tracker]))
    assert application.main(["doctor", recipe, "--folder", str(tmp_path)]) == code
    told = capsys.readouterr()
    assert (f"not ready: wandb, tracker {tracker}" in told.err or f"not ready: tracker {tracker}" in told.err) is bool(
        code
    )
    found = dict(line.split(maxsplit=3)[1:3] for line in told.out.splitlines() if line.startswith(("reward", "data ")))
    assert found["toy_exact"] == found["toy_sums"] == "ok"


def test_a_plugin_that_cannot_be_imported_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    content = toy_recipe(tmp_path)
    content["rewards"]["judge"] = {"type": "nobody_has_it"}
    assert application.main(["doctor", write_recipe(tmp_path, content), "--folder", str(tmp_path)]) == 5
    assert "not ready: reward nobody_has_it" in capsys.readouterr().err


def test_a_full_disk_is_preflight_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    assert application.main(["doctor", "--folder", str(tmp_path)]) == 5
    assert "run folder" in capsys.readouterr().err
