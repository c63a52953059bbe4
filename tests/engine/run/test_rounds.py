"""Rounds: where each begins, when they end, what follows them, and a run that goes on within one."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.e2e.runs import comparable, lines
from tests.engine.run.test_trainer import Stop, run
from tests.toy.compiled import HERE, Change, compiled, problems, put
from wavalign.engine.compile.compiler import compile_recipe
from wavalign.engine.compile.stage_links import start_in_plan
from wavalign.engine.run import rounds
from wavalign.engine.run.choosing import from_run
from wavalign.engine.run.watching import Watch
from wavalign.engine.stages.generate import Part
from wavalign.engine.state.folder import RunFolder
from wavalign.engine.step.step import StepExecutor
from wavalign.errors import PreflightError
from wavalign.schema.evaluation import StopRounds
from wavalign.schema.loading import load_recipe

SAMPLE = {"name": "sample", "type": "generate", "generate": {"limit": 12, "chunk": 4}, "rollout": {"group_size": 2}}
TRAIN = {"name": "train", "steps": 2, "data": {"demonstrations": [{"type": "jsonl", "stage": "sample"}]}}
STOP = {"metric": "heldout/accuracy", "patience": 1}


def staged(count: int = 2, **repeat: Any) -> tuple[Change, ...]:
    """A warm-up, rounds of sampling and training, and a stage that follows them."""
    body = {"repeat": count, "name": "round", "stages": [SAMPLE, TRAIN], **repeat}
    stages = [{"name": "warm", "steps": 1}, body, {"name": "last", "steps": 1}]
    return (put("stages", stages), put("data.evaluation", {"type": "toy_sums", "limit": 6}))


def model(folder: Path, stage: str) -> dict[str, Any]:
    return load_file(folder / "stages" / stage / "model" / "model.safetensors")


def assert_same(found: Path, wanted: Path) -> None:
    assert comparable(found / "metrics.jsonl") == comparable(wanted / "metrics.jsonl")
    for stage in ("round-1.train", "round-2.train", "last"):
        ours, theirs = model(found, stage), model(wanted, stage)
        assert all(ours[name].equal(theirs[name]) for name in theirs)
    for number in (1, 2):
        name = f"stages/round-{number}.sample/data/part-00000-of-00001.jsonl"
        assert (found / name).read_bytes() == (wanted / name).read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("whole"), *staged())


def test_a_round_starts_where_the_one_before_left_off(whole: Path, tmp_path: Path) -> None:
    """A stage that generates leaves no weights, so its neighbour starts from what it started from."""
    plan = compiled(tmp_path, *staged())
    starts = {stage.name: start_in_plan(plan.stages, stage) for stage in plan.stages}
    assert starts == {
        "warm": None,
        "round-1.sample": "warm",
        "round-1.train": "warm",
        "round-2.sample": "round-1.train",
        "round-2.train": "round-1.train",
        "last": "round-2.train",
    }
    held_out = [line for line in lines(whole / "metrics.jsonl") if line["split"] == "heldout"]
    measured = {(line["stage"], line["step"]): line["accuracy"] for line in held_out}
    assert measured["round-1.train", 1] == measured["warm", 1]
    assert measured["round-2.train", 3] == measured["round-1.train", 3]
    assert measured["last", 5] == measured["round-2.train", 5]


def test_the_resolved_recipe_is_the_same_plan(whole: Path) -> None:
    again = compile_recipe(load_recipe(str(whole / "recipe.resolved.yaml")), HERE)
    assert again.fingerprint == compiled(whole.parent, *staged()).fingerprint


def test_rounds_sample_from_their_own_weights(whole: Path) -> None:
    made = [json.loads((whole / f"stages/round-{n}.sample/dataset.json").read_text())["model"] for n in (1, 2)]
    assert made[0] != made[1]


@pytest.mark.parametrize(("kind", "at"), [("step", 3), ("step", 5), ("chunk", 2), ("chunk", 5)])
def test_stopped_within_a_round_and_resumed(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, at: int
) -> None:
    owner: Any = StepExecutor if kind == "step" else Part
    name = "step" if kind == "step" else "add"
    original, seen = owner.__dict__[name], 0

    def stopped(self: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == at:
            raise Stop
        return original(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stopped)
        with pytest.raises(Stop):
            run(tmp_path / "cut", *staged())
    run(tmp_path / "cut", *staged(), resume=True)
    assert_same(tmp_path / "cut" / "run", whole)


def scripted(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """Let round n have the n-th value."""
    monkeypatch.setattr(rounds, "_value", lambda folder, stages, watch: values[stages[0].stage.round.number - 1])


@pytest.mark.parametrize(
    ("values", "done", "best"),
    [((0.5, 0.2, 0.9), 2, 1), ((0.5, 0.6, 0.6), 3, 2), ((float("nan"), 0.1, 0.2), 1, 1)],
)
def test_rounds_that_get_worse_end_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: tuple[float, ...], done: int, best: int
) -> None:
    """What follows starts from the best round, whether they came to their end or not; the rest is marked as skipped."""
    scripted(monkeypatch, *values)
    folder = run(tmp_path, *staged(3, stop_early=STOP))
    left = [number for number in (1, 2, 3) if (folder / f"stages/round-{number}.train/model").exists()]
    assert left == list(range(1, done + 1))
    assert json.loads((folder / "stages/round-3.train/complete.json").read_text()).get("skipped", False) == (done < 3)
    first = next(each for each in lines(folder / "metrics.jsonl") if each["stage"] == "last")
    before = [each for each in lines(folder / "metrics.jsonl") if each["stage"] == f"round-{best}.train"][-1]
    assert first["accuracy"] == before["accuracy"]
    assert (folder / "finished.json").exists()


def test_a_run_that_ends_with_rounds_leaves_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, 0.5, 0.2, 0.1)
    ends = staged(3, stop_early=STOP)
    folder = run(tmp_path, *ends, lambda recipe: recipe["stages"].pop())
    final, best = load_file(folder / "model" / "model.safetensors"), model(folder, "round-1.train")
    assert all(final[name].equal(best[name]) for name in best)
    assert from_run(folder).stage.name == "round-1.train"


def test_early_ends_are_decided_again_at_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, 0.5, 0.2, 0.9)
    wanted = run(tmp_path / "whole", *staged(3, stop_early=STOP))
    skips = rounds.Rounds.skips

    def stopped(self: rounds.Rounds, stage: Any) -> bool:
        if stage.name == "round-3.train":
            raise Stop
        return skips(self, stage)

    with monkeypatch.context() as patch:
        patch.setattr(rounds.Rounds, "skips", stopped)
        with pytest.raises(Stop):
            run(tmp_path / "cut", *staged(3, stop_early=STOP))
    run(tmp_path / "cut", *staged(3, stop_early=STOP), resume=True)
    ours, theirs = model(tmp_path / "cut/run", "last"), model(wanted, "last")
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def test_the_value_of_a_round_is_that_of_the_weights_it_left(tmp_path: Path) -> None:
    plan = compiled(tmp_path, *staged(2, stop_early=STOP))
    stages = [each for each in plan.stages if each.name.startswith("round-1")]
    folder = RunFolder(tmp_path / "run")
    (folder.stages / "round-1.train").mkdir(parents=True)
    wrote = [("warm", 1, 0.9), ("round-1.train", 1, 0.1), ("round-1.train", 2, 0.7), ("round-1.train", 3, 0.4)]
    text = [{"stage": stage, "step": step, "split": "heldout", "accuracy": value} for stage, step, value in wrote]
    folder.metrics.write_text("\n".join(map(json.dumps, text)) + "\n")
    watch = Watch(StopRounds(metric="heldout/accuracy"))
    for held, value in (({"step": 3}, 0.4), ({"step": 2}, 0.7), (None, 0.4)):
        folder.complete("round-1.train").write_text(json.dumps({"model": held}))
        assert rounds._value(folder, stages, watch) == value
    with pytest.raises(PreflightError, match=r"the round of round-1\.sample did not measure it"):
        rounds._value(folder, stages, Watch(StopRounds(metric="elsewhere/accuracy")))


def test_a_value_that_no_round_measures(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, *staged(2, stop_early={"metric": "nowhere/accuracy"}))
    assert problem.message == "`nowhere/accuracy` is measured in no stage of the rounds"
    assert problem.path == "stages.1.stop_early.metric"
    assert problem.where is not None and problem.where.line > 0
