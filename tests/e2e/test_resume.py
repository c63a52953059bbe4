"""A run that is killed and resumed leaves the same numbers as one that never was."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.e2e.runs import Started, comparable, here, lines, snapshot, wait_for
from tests.toy.world import NUMBERS, toy_recipe, write_recipe
from wavalign.engine.run.clock import StepClock
from wavalign.engine.step.metrics import StepResult
from wavalign.engine.step.stage import LiveStage
from wavalign.errors import Interrupted


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
    done = here("run", _recipe(folder))
    assert done.code == 0, done.output
    return folder / "run"


def test_killed_and_resumed_equals_uninterrupted(uninterrupted: Path, tmp_path: Path) -> None:
    """kill -9 somewhere in the middle, twice; metrics and weights come out the same, bit for bit."""
    recipe = _recipe(tmp_path)
    metrics = tmp_path / "run" / "metrics.jsonl"
    for number, arguments in ((8, ("run", recipe)), (20, ("run", recipe, "--resume"))):
        process = Started(arguments, tmp_path / "output.txt")
        wait_for(lambda wanted=number: len(lines(metrics)) >= wanted, process)  # type: ignore[misc]  # bound in time
        process.send(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "run" / "finished.json").exists()
    done = here("run", recipe, "--resume")
    assert done.code == 0, done.output
    assert comparable(metrics) == comparable(uninterrupted / "metrics.jsonl")
    ours, theirs = (load_file(each / "model" / "model.safetensors") for each in (tmp_path / "run", uninterrupted))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    for name in ("rollouts.jsonl", "evaluation.jsonl"):
        assert comparable(tmp_path / "run" / name) == comparable(uninterrupted / name)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_writes_a_checkpoint(uninterrupted: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Ctrl-C and SIGTERM end the step, write a checkpoint, say so and exit 130 / 143; --resume goes on from there."""
    recipe = _recipe(tmp_path)
    process = Started(("run", recipe), tmp_path / "output.txt")
    wait_for(lambda: len(lines(tmp_path / "run" / "metrics.jsonl")) >= 6, process)
    process.send(number)
    assert process.wait() == code, process.output
    assert "--resume" in process.output
    steps = [line["step"] for line in lines(tmp_path / "run" / "metrics.jsonl") if line["split"] == "train"]
    assert (tmp_path / "run" / "checkpoints" / f"step-{max(steps)}" / "checkpoint.json").exists()
    assert here("run", recipe, "--resume").code == 0
    assert comparable(tmp_path / "run" / "metrics.jsonl") == comparable(uninterrupted / "metrics.jsonl")


def test_another_plan_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of another plan: exit 7, both plans named, nothing changed."""
    recipe = _recipe(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(StepClock, "log_step", _interrupt_at(5, StepClock.log_step))
        assert here("run", recipe).code == 130
    before = snapshot(tmp_path / "run")
    refused = here("run", recipe, "--resume", "--set", "optim.learning_rate=0.001")
    assert refused.code == 7, refused.output
    assert "was begun by plan" in refused.output
    assert "--diff" in refused.output
    assert snapshot(tmp_path / "run") == before


def _interrupt_at(last: int, log: Callable[..., None]) -> Callable[..., None]:
    def logged(self: StepClock, live: LiveStage, step: int, result: StepResult) -> None:
        if step == last:
            raise Interrupted(signal.SIGINT)
        log(self, live, step, result)

    return logged


def test_a_finished_run_is_not_resumed(uninterrupted: Path) -> None:
    """Usage error, exit 2."""
    refused = here("run", str(uninterrupted.parent / "toy.yaml"), "--resume")
    assert refused.code == 2
    assert "finished" in refused.output


def test_a_stream_resumes_at_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Demonstrations that are streamed beside some with an index, interrupted in the second epoch."""
    lines_ = [
        json.dumps({"messages": [{"role": "user", "text": f"{a} plus {b}"}], "target": {"text": f"it is {b}"}})
        for a in NUMBERS
        for b in NUMBERS[:4]
    ]
    for number in range(3):
        (tmp_path / f"part-{number}.jsonl").write_text("\n".join(lines_[8 * number : 8 * number + 8]) + "\n")
    stream = {"type": "jsonl", "path": str(tmp_path / "part-*.jsonl"), "streaming": True, "shuffle_buffer": 5}
    data = {"prompts": {"type": "toy_sums"}, "demonstrations": [stream, {"type": "toy_sums", "weight": 0.5}]}
    changes = {"data": {**data, "evaluation": {"type": "toy_sums"}}, "steps": 18}
    whole, cut = (_recipe(tmp_path / name, **changes) for name in ("whole", "cut"))
    assert here("run", whole).code == 0
    with monkeypatch.context() as patch:
        patch.setattr(StepClock, "log_step", _interrupt_at(13, StepClock.log_step))
        assert here("run", cut).code == 130
    done = here("run", cut, "--resume")
    assert done.code == 0, done.output
    for name in ("metrics.jsonl", "rollouts.jsonl", "evaluation.jsonl"):
        assert comparable(tmp_path / "cut/run" / name) == comparable(tmp_path / "whole/run" / name)
