"""`wavalign doctor`."""

import json
import shutil
from pathlib import Path

import pytest

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
    assert not (tmp_path / "runs").exists()


def test_a_missing_package_is_named() -> None:
    finding = doctor.look_at_packages("speech", ("json", "nothing_of_this_name"), "install it", Verdict.MISSING)
    assert finding.verdict is Verdict.MISSING
    assert "nothing_of_this_name" in finding.detail
    assert finding.hint == "install it"


def test_a_full_disk_is_preflight_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    assert application.main(["doctor", "--folder", str(tmp_path)]) == 5
    assert "run folder" in capsys.readouterr().err
