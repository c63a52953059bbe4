"""A run that is killed, or meets a full disk, between any two file-system events: a resume makes it whole."""

import shutil
from pathlib import Path

import pytest

from tests.e2e import faults
from tests.e2e.runs import comparable
from tests.engine.run.test_trainer import assert_same_run
from tests.toy.world import toy_recipe, write_recipe

SAMPLE = (0.1, 0.5, 0.9)
"""Places in the run of the events that the quick test takes."""
WANTED = ("plan.json", "recipe.resolved.yaml", "environment.json", "inputs.json", "report.html", "finished.json")


def recipe(folder: Path) -> str:
    """Three steps, a checkpoint after each, one kept."""
    folder.mkdir(exist_ok=True)
    content = toy_recipe(folder, checkpoint_every=1, keep_checkpoints=1, report=True, log_rollouts_every=1)
    content["steps"] = 3
    content["evaluation"]["every"] = 2
    content["data"]["prompts"] = {"type": "toy_sums", "limit": 12}
    content["data"]["evaluation"] = {"type": "toy_sums", "limit": 6}
    return write_recipe(folder, content)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Folder of a run that went through, and how many events it had."""
    folder = tmp_path_factory.mktemp("whole")
    code, events, said = faults.run(("run", recipe(folder)), folder / "run")
    assert code == 0, said
    assert events > 50
    return folder / "run", events


@pytest.mark.parametrize("fault", ["kill", "full"])
def test_a_fault_here_and_there(whole: tuple[Path, int], tmp_path: Path, fault: faults.Fault) -> None:
    for share in SAMPLE:
        check(whole[0], tmp_path, fault, 1 + int(share * whole[1]))


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "full"])
def test_a_fault_at_every_event(whole: tuple[Path, int], tmp_path: Path, fault: faults.Fault) -> None:
    for at in range(1, whole[1] + 1):
        check(whole[0], tmp_path, fault, at)


def check(whole: Path, folder: Path, fault: faults.Fault, at: int) -> None:
    """Let the fault come, resume, and compare with the run that went through."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    path, run = recipe(folder), folder / "run"
    code, met, said = faults.run(("run", path), run, fault=fault, at=at)
    place = f"{fault} at {at}: {said}"
    if code == 0 and met < at:
        return  # runs differ by an event or two, as caches are filled or not: this one was over before
    if fault == "full" and code == 0:
        return  # the last events need no space
    assert code == (faults.KILLED if fault == "kill" else 1), place
    assert "fault in WavAlign" not in said, place
    if fault == "full":
        assert "No space left" in said, place
    if not (run / "finished.json").exists():
        code, _, said = faults.run(("run", path, *(["--resume"] if (run / "plan.json").exists() else [])), run)
        assert code == 0, f"{place}\nthen {said}"
    assert_same_run(run, whole)
    for name in WANTED:
        assert (run / name).exists(), f"{place}\n{name} is missing"
    left = [each.name for each in run.rglob(".*")]
    assert left == [], place
    assert [each.name for each in (run / "checkpoints").iterdir()] == ["step-3"], place
    assert comparable(run / "metrics.jsonl"), place
