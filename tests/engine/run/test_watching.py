"""Runs that measure only, keep the best weights, end early."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.e2e.runs import comparable, lines
from tests.engine.run.test_survival import Cut, fail_at
from tests.engine.run.test_trainer import assert_same_run, run
from tests.toy.compiled import Change, compiled, drop, problems, put
from wavalign.engine import api
from wavalign.engine.run.watching import Watch
from wavalign.engine.step.operators import FUNCTIONS
from wavalign.errors import CheckpointError, PreflightError
from wavalign.schema.evaluation import StopEarly, Watched

MEASURED: tuple[Change, ...] = (
    put("evaluation.every", 1),
    put("runtime.checkpoint_every", 0),
    put("optim.learning_rate", 0.03),
    put("steps", 8),
)


@pytest.mark.parametrize("without", [(), (drop("objective"), drop("rewards"), drop("data.prompts"))])
def test_no_steps_measure_once(tmp_path: Path, without: tuple[Change, ...]) -> None:
    """With the objective left out, or `--set steps=0` on a recipe that trains: metrics and a report, no model."""
    (tmp_path / "eval").mkdir()
    done = run(tmp_path / "eval", put("steps", 0), put("runtime.report", True), *without)
    assert [(line["step"], line["split"]) for line in lines(done / "metrics.jsonl")] == [(0, "heldout")]
    assert (done / "finished.json").exists()
    assert (done / "report.html").exists()
    assert not (done / "model").exists()
    assert not (done / "checkpoints").exists()
    trained = run(tmp_path / "trained", put("steps", 1))
    start = comparable(trained / "metrics.jsonl")[0]
    assert comparable(done / "metrics.jsonl") == [start]


def test_neither_steps_nor_metrics_are_refused(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, put("steps", 0), put("evaluation.metrics", {}))
    assert (found.path, found.message) == ("steps", "the stage neither trains nor measures")


def test_a_stage_that_measures_between_two_that_train(tmp_path: Path) -> None:
    """It hands on the weights it was given."""
    stages = [
        {"name": "a", "steps": 2},
        {"name": "look", "steps": 0},
        {"name": "b", "steps": 2},
        {"name": "end", "steps": 0},
    ]
    done = run(tmp_path, put("stages", stages), drop("steps"))
    found = [(line["stage"], line["step"]) for line in lines(done / "metrics.jsonl") if line["split"] == "heldout"]
    assert found == [("a", 0), ("a", 2), ("look", 2), ("b", 2), ("b", 4), ("end", 4)]
    first, handed = (load_file(done / "stages" / name / "model/model.safetensors") for name in ("a", "look"))
    assert all(first[name].equal(handed[name]) for name in first)
    last, model = (load_file(done / name / "model.safetensors") for name in ("stages/b/model", "model"))
    assert all(last[name].equal(model[name]) for name in last)


def worst(folder: Path) -> int:
    """The step after which accuracy was lowest, the first of several."""
    values = [
        (line["accuracy"], line["step"]) for line in lines(folder / "metrics.jsonl") if line["split"] == "heldout"
    ]
    return int(min((value, step) for value, step in values if step)[1])


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that keeps what is lowest, which is not the end."""
    keep = put("runtime.keep_best", {"metric": "heldout/accuracy", "mode": "min"})
    return run(tmp_path_factory.mktemp("best"), *MEASURED, keep)


def test_the_best_checkpoint_is_kept_and_is_the_model(best: Path) -> None:
    step = worst(best)
    assert step < 8, "the toy model learns"
    kept = {path.name for path in (best / "checkpoints").iterdir()}
    assert {f"step-{step}", "step-8"} <= kept
    held = json.loads((best / "best.json").read_text())
    assert (held["step"], held["metric"], held["mode"]) == (step, "heldout/accuracy", "min")
    model = load_file(best / "model/model.safetensors")
    with safe_open(best / f"checkpoints/step-{step}/training.safetensors", framework="pt") as file:
        assert all(torch.equal(file.get_tensor(f"weights/{name}"), tensor) for name, tensor in model.items())


def test_the_best_is_known_after_a_resume(best: Path, tmp_path: Path) -> None:
    keep = put("runtime.keep_best", {"metric": "heldout/accuracy", "mode": "min"})
    for at in (3, 3):
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, FUNCTIONS, "gate", at, Cut())
            with pytest.raises(Cut):
                run(tmp_path, *MEASURED, keep, resume=(tmp_path / "run").exists())
    run(tmp_path, *MEASURED, keep, resume=True)
    assert_same_run(tmp_path / "run", best)
    assert (tmp_path / "run/best.json").read_text() == (best / "best.json").read_text()


def test_a_run_whose_best_weights_are_gone_does_not_go_on(tmp_path: Path) -> None:
    """It could not leave them at its end."""
    keep = put("runtime.keep_best", {"metric": "heldout/accuracy", "mode": "min"})
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, FUNCTIONS, "gate", 7, Cut())
        with pytest.raises(Cut):
            run(tmp_path, *MEASURED, keep)
    (kept,) = {path.name for path in (tmp_path / "run/checkpoints").iterdir()} - {"step-6"}
    shutil.rmtree(tmp_path / "run/checkpoints" / kept)
    with pytest.raises(CheckpointError, match="the best weights before step 6 are those of step"):
        run(tmp_path, *MEASURED, keep, resume=True)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-6"]


STOP = put("stop_early", {"metric": "heldout/accuracy", "mode": "min", "patience": 2})


def test_a_stage_ends_early(tmp_path: Path) -> None:
    """Two measurements without a lower accuracy; killed and resumed it ends at the same step."""
    whole = run(tmp_path / "whole", *MEASURED, STOP)
    values = [line["accuracy"] for line in lines(whole / "metrics.jsonl") if line["split"] == "heldout"]
    steps = [line["step"] for line in lines(whole / "metrics.jsonl") if line["split"] == "train"]
    assert len(values) == len(steps) + 1 < 9, "nothing is measured twice"
    assert min(values[:-2]) <= min(values[-2:])
    mark = json.loads((whole / "stages/train/complete.json").read_text())
    assert (mark["planned"], mark["steps"]) == (8, len(steps))
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, FUNCTIONS, "gate", len(steps), Cut())
        with pytest.raises(Cut):
            run(tmp_path / "cut", *MEASURED, STOP)
    run(tmp_path / "cut", *MEASURED, STOP, resume=True)
    assert_same_run(tmp_path / "cut/run", whole)


def test_a_watch_by_hand() -> None:
    watch = Watch(StopEarly(metric="a/b", patience=2, min_delta=0.1))
    assert [watch.see(value, step) for step, value in enumerate((0.5, 0.55, 0.7, math.nan))] == [
        True,
        False,
        True,
        False,
    ]
    assert (watch.best, watch.step, watch.since, watch.is_over) == (0.7, 2, 1, False)
    again = Watch(watch.watched)
    again.load_state_dict(json.loads(json.dumps(watch.state_dict())))
    assert not again.see(0.75, 4)
    assert again.is_over
    low = Watch(Watched(metric="a/b", mode="min"))
    assert [low.see(value, 0) for value in (0.5, 0.4, 0.4)] == [True, True, False]


def test_what_is_watched_must_be_measured(tmp_path: Path) -> None:
    for path in ("runtime.keep_best", "stop_early"):
        for metric, every in (("nowhere/accuracy", 1), ("heldout/accuracy", 0)):
            (found,) = problems(tmp_path, put(path, {"metric": metric}), put("evaluation.every", every))
            assert found.path == f"{path}.metric"
    with pytest.raises(PreflightError, match="was not measured") as caught:
        api.run(compiled(tmp_path, *MEASURED, put("stop_early", {"metric": "heldout/acuracy"})))
    assert "accuracy" in caught.value.hint
