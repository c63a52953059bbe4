"""A run that is killed and resumed leaves the same numbers as one that never was."""

import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.e2e.runs import comparable, lines, start, wait_for, wavalign
from tests.toy.world import toy_recipe, write_recipe


def _recipe(folder: Path, **changes: object) -> str:
    folder.mkdir(exist_ok=True)
    recipe = toy_recipe(folder, checkpoint_every=3)
    recipe["steps"] = 40
    recipe["evaluation"]["every"] = 20
    recipe.update(changes)
    return write_recipe(folder, recipe)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that went through."""
    folder = tmp_path_factory.mktemp("whole")
    done = wavalign("run", _recipe(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run"


def test_killed_and_resumed_equals_uninterrupted(uninterrupted: Path, tmp_path: Path) -> None:
    """kill -9 somewhere in the middle, twice; metrics and weights come out the same, bit for bit."""
    recipe = _recipe(tmp_path)
    metrics = tmp_path / "run" / "metrics.jsonl"
    process = start("run", recipe)
    wait_for(lambda: len(lines(metrics)) >= 8, process)
    process.kill()
    process.communicate()
    process = start("run", recipe, "--resume")
    wait_for(lambda: len(lines(metrics)) >= 20, process)
    process.kill()
    process.communicate()
    assert not (tmp_path / "run" / "finished.json").exists()
    done = wavalign("run", recipe, "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert comparable(metrics) == comparable(uninterrupted / "metrics.jsonl")
    ours, theirs = (load_file(each / "model" / "model.safetensors") for each in (tmp_path / "run", uninterrupted))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    assert comparable(tmp_path / "run" / "rollouts.jsonl") == comparable(uninterrupted / "rollouts.jsonl")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_writes_a_checkpoint(uninterrupted: Path, tmp_path: Path, number: int, code: int) -> None:
    """Ctrl-C and SIGTERM end the step, write a checkpoint, say so and exit 130 / 143; --resume goes on from there."""
    recipe = _recipe(tmp_path)
    process = start("run", recipe)
    wait_for(lambda: len(lines(tmp_path / "run" / "metrics.jsonl")) >= 6, process)
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == code, output
    assert "--resume" in output
    steps = [line["step"] for line in lines(tmp_path / "run" / "metrics.jsonl") if line["split"] == "train"]
    assert (tmp_path / "run" / "checkpoints" / f"step-{max(steps)}" / "checkpoint.json").exists()
    assert wavalign("run", recipe, "--resume").returncode == 0
    assert comparable(tmp_path / "run" / "metrics.jsonl") == comparable(uninterrupted / "metrics.jsonl")


def test_another_plan_is_refused(uninterrupted: Path, tmp_path: Path) -> None:
    """A checkpoint of another plan: exit 7, both plans named, nothing changed."""
    recipe = _recipe(tmp_path)
    process = start("run", recipe)
    wait_for(lambda: (tmp_path / "run" / "checkpoints" / "step-3").exists(), process)
    process.kill()
    process.communicate()
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    refused = wavalign("run", recipe, "--resume", "--set", "optim.learning_rate=0.001")
    assert refused.returncode == 7, refused.stdout + refused.stderr
    assert "plan" in refused.stderr + refused.stdout
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_finished_run_is_not_resumed(uninterrupted: Path) -> None:
    """Usage error, exit 2."""
    refused = wavalign("run", str(uninterrupted.parent / "toy.yaml"), "--resume")
    assert refused.returncode == 2
    assert "finished" in refused.stderr + refused.stdout
