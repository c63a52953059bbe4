"""A stage that measures: what it logs, what it leaves, on how many processes, after a kill, and who watches it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import run_ranks
from tests.e2e.runs import comparable, lines
from tests.engine.run.test_trainer import Signals, Stop, run
from tests.toy.compiled import Change, compiled, problems, put
from wavalign.engine.compile.plan import Plan
from wavalign.engine.compile.stage_links import start_in_plan
from wavalign.engine.run import rounds
from wavalign.engine.run.evaluation import Evaluator
from wavalign.engine.run.trainer import Trainer
from wavalign.engine.state.distributed import World
from wavalign.engine.state.folder import RunFolder
from wavalign_cli.plan_views import tree

WARM = {"name": "warm", "steps": 1, "evaluation": {"at_start": False, "at_end": True}}
LOOK = {"name": "look", "type": "evaluate", "objective": None}
TAIL = {"name": "tail", "steps": 1}
THREE: tuple[Change, ...] = (put("stages", [WARM, LOOK, TAIL]),)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("whole"), *THREE)


def held_out(folder: Path, stage: str) -> list[dict[str, Any]]:
    """Its lines of held-out splits, without times."""
    kept = [line for line in comparable(folder / "metrics.jsonl") if line["stage"] == stage]
    return [line for line in kept if line["split"] != "train"]


def test_it_measures_what_the_stage_before_left(whole: Path) -> None:
    (found,), (before,) = held_out(whole, "look"), held_out(whole, "warm")
    assert {**found, "stage": "warm"} == before
    assert found["step"] == 1 and "accuracy" in found and "accuracy/ceiling" in found


def test_items_and_samples_are_kept(whole: Path) -> None:
    for name in ("evaluation.jsonl", "rollouts.jsonl"):
        assert any(line["stage"] == "look" for line in lines(whole / name))


def test_nothing_is_left_to_start_from(whole: Path, tmp_path: Path) -> None:
    assert [each.name for each in (whole / "stages/look").iterdir()] == ["complete.json"]
    plan = compiled(tmp_path, *THREE)
    assert start_in_plan(plan.stages, plan.stages[2]) == "warm"
    assert plan.stages[1].geometry is None and plan.total_steps == 2
    found = problems(tmp_path, put("stages", [WARM, LOOK, {**TAIL, "start": "look"}]))
    assert [each.message for each in found] == ["stage `look` measures and leaves no weights to start from"]
    imitating = {**TAIL, "data": {"demonstrations": [{"type": "jsonl", "stage": "look"}]}}
    assert [each.message for each in problems(tmp_path, put("stages", [WARM, LOOK, imitating]))] == [
        "`look` writes no answers"
    ]


def test_alone_it_measures_what_model_says(tmp_path: Path) -> None:
    folder = run(tmp_path, put("stages", [LOOK]))
    assert len(held_out(folder, "look")) == 1 and not (folder / "model").exists()


def test_without_metrics_or_data_it_says_what_is_missing(tmp_path: Path) -> None:
    found = problems(tmp_path, put("stages", [LOOK]), put("evaluation.metrics", {}))
    assert [each.message for each in found] == ["evaluate needs evaluation.metrics"]
    found = problems(tmp_path, put("stages", [LOOK]), put("data.evaluation", {}))
    assert [each.message for each in found] == ["there are metrics and no data.evaluation"]


def test_the_plan_says_what_is_measured(tmp_path: Path) -> None:
    shown = tree(compiled(tmp_path, *THREE))
    assert "stage look  evaluate" in str(shown) and "measures" in str(shown)


def test_stopped_in_it_and_resumed(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    original = Evaluator._gold

    def stopping(self: Evaluator, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Stop
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "_gold", stopping)
        with pytest.raises(Stop):
            run(tmp_path, *THREE)
    assert (tmp_path / "run/stages/warm/complete.json").exists() and not (tmp_path / "run/stages/look").exists()
    again = run(tmp_path, *THREE, resume=True)
    for name in ("metrics.jsonl", "evaluation.jsonl", "rollouts.jsonl"):
        assert comparable(again / name) == comparable(whole / name)


def rank(world: World, plan: str, folder: str) -> bool:
    Trainer(Plan.from_json(plan), RunFolder(Path(folder)), world, Signals(-1)).run(resume=False)
    return True


@pytest.mark.parametrize("engine", [{"type": "plain"}, {"type": "deepspeed", "zero": 3}])
def test_two_processes_measure_what_one_measures(tmp_path: Path, engine: dict[str, Any]) -> None:
    """DeepSpeed has no part in it: nothing is updated."""
    (tmp_path / "run").mkdir()
    one = put("stages", [LOOK])
    plan = compiled(tmp_path, one, put("runtime.processes", 2), put("runtime.engine", engine))
    assert run_ranks(rank, 2, plan.to_json(), str(tmp_path / "run")) == [True, True]
    alone = run(tmp_path / "alone", one)
    assert held_out(tmp_path / "run", "look") == held_out(alone, "look")


def body(count: int, **repeat: Any) -> tuple[Change, ...]:
    """Rounds that train without measuring, and measure by a stage of their own."""
    train = {"name": "train", "steps": 1, "evaluation": {"at_start": False, "at_end": False}}
    stages = [{"repeat": count, "stages": [train, LOOK], **repeat}]
    return put("stages", stages), put("data.evaluation", {"type": "toy_sums", "limit": 6})


def test_rounds_end_by_what_it_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The values of the rounds are set to 0.5, 0.2, 0.9: after the second one no further is begun."""
    values = iter((0.5, 0.2, 0.9))
    given = dict[str, float]()
    monkeypatch.setattr(
        rounds, "_measured", lambda folder, names, split: [{"stage": n, "step": 0, "accuracy": given[n]} for n in names
                                                           if n.endswith("look")]
    )  # fmt: skip
    for number in (1, 2, 3):
        given[f"round-{number}.look"] = next(values)
    folder = run(tmp_path, *body(3, stop_early={"metric": "heldout/accuracy"}))
    stages = {line["stage"] for line in lines(folder / "metrics.jsonl")}
    assert stages == {"round-1.train", "round-1.look", "round-2.train", "round-2.look"}
    kept, best = (folder / each / "model/model.safetensors" for each in ("", "stages/round-1.train"))
    assert kept.read_bytes() == best.read_bytes()


def test_the_value_of_a_round_is_that_of_the_stage_that_measures_it(tmp_path: Path) -> None:
    """A later stage that measures another value on the split does not hide it."""
    folder = run(tmp_path, *body(1, stop_early={"metric": "heldout/accuracy"}))
    plan = compiled(tmp_path, *body(1, stop_early={"metric": "heldout/accuracy"}))
    mine = plan.stages[0].stage.round
    assert mine is not None
    (line,) = held_out(folder, "round-1.look")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"stage": "round-1.look", "step": 9, "split": "heldout", "other": 3.0}) + "\n")
    assert rounds.look(plan, RunFolder(folder), mine).value == line["accuracy"]
