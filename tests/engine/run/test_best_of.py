"""The best of several held-out answers: which one is measured, what is said of it, what is refused."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import run_ranks
from tests.e2e.runs import comparable
from tests.engine.run.test_trainer import Signals, run
from tests.toy.compiled import Change, compiled, drop, problems, put
from tests.toy.live import evaluated_stage, silent
from wavalign.engine.compile.plan import Plan
from wavalign.engine.run.trainer import Trainer
from wavalign.engine.state.distributed import World
from wavalign.engine.state.folder import RunFolder
from wavalign.engine.state.seeds import generator
from wavalign.engine.step.best_of import BestOf
from wavalign.errors import RewardBudgetError
from wavalign.schema.stage import Stage
from wavalign_cli.plan_views import tree

WARM: dict[str, Any] = {
    "name": "warm",
    "steps": 20,
    "objective": {"terms": {"rl": {"weight": 0}, "sft": {"share": 1}}},
    "optim": {"learning_rate": 0.01},
    "evaluation": {"at_start": False},
}
BASE: tuple[Change, ...] = (put("evaluation.sampling", {"temperature": 0.8}),)
MEASURED: tuple[Change, ...] = (
    *BASE,
    put(
        "stages",
        [WARM, {"name": "one", "type": "evaluate"},
         {"name": "best", "type": "evaluate", "evaluation": {"best_of": {"n": 5, "reward": "exact"}}}],
    ),
)  # fmt: skip
ALONE: tuple[Change, ...] = (*BASE, put("steps", 0), put("evaluation.best_of", {"n": 5}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("whole"), *MEASURED)


def line(folder: Path, stage: str) -> dict[str, Any]:
    return next(each for each in comparable(folder / "metrics.jsonl") if each["stage"] == stage and "accuracy" in each)


def test_what_is_measured_is_said(whole: Path) -> None:
    one, best = line(whole, "one"), line(whole, "best")
    assert (one["split"], best["split"]) == ("heldout", "heldout.best_of_5")
    assert "best_of" not in one and best["best_of"] == 5
    assert best["accuracy"] > one["accuracy"]
    kept = [each["split"] for each in comparable(whole / "evaluation.jsonl") if each["stage"] == "best"]
    assert set(kept) == {"heldout.best_of_5"}


def test_the_best_answer_is_right_where_any_is(whole: Path, tmp_path: Path) -> None:
    """The reward is 5 for a right answer and 1 for a wrong one; the metric asks the same."""
    plan = compiled(tmp_path, *ALONE, put("model.checkpoint", str(whole / "model")), drop("model.preset"))
    live, evaluator = evaluated_stage(plan)
    (result,) = evaluator.run(live.backend.policy, silent)
    policy, roller, dialogues = live.backend.policy, live.roller, evaluator.splits["heldout"]
    assert isinstance(evaluator.best, BestOf)
    options = evaluator.options
    drawn = roller.sample(policy, dialogues, replace(options, group_size=5), generator(0, "evaluation"))
    alone = roller.sample(policy, dialogues, options, generator(0, "evaluation"))
    right = [[each.answer.text.split()[-1:] == [group.dialogue.metadata["answer"]] for each in group.rollouts]
             for group in drawn]  # fmt: skip
    values = result.values
    assert values["accuracy"] == pytest.approx(sum(any(row) for row in right) / 36)
    assert 0 < values["accuracy"] < 1
    assert values["best_of/kept"] == pytest.approx(1 + 4 * values["accuracy"])
    assert values["best_of/all"] == pytest.approx(1 + 4 * sum(sum(row) for row in right) / (5 * 36))
    assert values["best_of/unscored"] == 0
    for group, single, item, row in zip(drawn, alone, result.items, right, strict=True):
        assert group.rollouts[0].completion.ids.equal(single.rollouts[0].completion.ids), "the first is the plain one"
        best = row.index(True) if any(row) else 0
        assert item.group.rollouts[0].completion.ids.equal(group.rollouts[best].completion.ids)
    live.close()


def rank(world: World, plan: str, folder: str) -> bool:
    Trainer(Plan.from_json(plan), RunFolder(Path(folder)), world, Signals(-1)).run(resume=False)
    return True


def test_two_processes_choose_as_one_does(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    plan = compiled(tmp_path, *ALONE, put("runtime.processes", 2))
    assert run_ranks(rank, 2, plan.to_json(), str(tmp_path / "run")) == [True, True]
    alone = run(tmp_path / "alone", *ALONE)
    for name in ("metrics.jsonl", "evaluation.jsonl"):
        assert comparable(tmp_path / "run" / name) == comparable(alone / name)


def test_an_answer_without_a_reward_is_never_the_best(tmp_path: Path) -> None:
    """Of dialogues about zero no answer has one: the first is kept, and they are counted."""
    misbehave = put("rewards.exact", {"type": "toy_exact", "misbehave": "sometimes"})
    found = line(run(tmp_path, *ALONE, misbehave, put("runtime.reward_failure_budget", 0.5)), "train")
    assert found["best_of/unscored"] == 6
    assert found["best_of/kept/count"] == 30
    assert not math.isnan(found["best_of/kept"])


def test_a_reward_that_fails_too_often_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(RewardBudgetError, match="40 of 40 calls of reward `exact` failed"):
        run(tmp_path, *ALONE, put("rewards.exact", {"type": "toy_exact", "misbehave": "raise"}))


def test_a_watched_value_keeps_its_name(tmp_path: Path) -> None:
    """What ends a stage early, and what ends rounds, is named by the split of the recipe."""
    watched = (
        *BASE, put("steps", 4), put("evaluation.every", 1), put("evaluation.best_of", {"n": 2}),
        put("stop_early", {"metric": "heldout/accuracy", "patience": 1}), put("optim.learning_rate", 1e-9),
    )  # fmt: skip
    lines = comparable(run(tmp_path, *watched) / "metrics.jsonl")
    assert max(each["step"] for each in lines if each["split"] == "train") < 4


def test_rounds_end_by_the_best_of_several(tmp_path: Path) -> None:
    body = [{"name": "learn", "steps": 1, "optim": {"learning_rate": 1e-9}}]
    rounds = {"repeat": 3, "name": "round", "stages": body, "stop_early": {"metric": "heldout/accuracy"}}
    folder = run(tmp_path, *BASE, put("evaluation.best_of", {"n": 2}), put("stages", [rounds]))
    done = {each["stage"] for each in comparable(folder / "metrics.jsonl")}
    assert done == {"round-1.learn", "round-2.learn"}


def test_the_plan_says_what_it_costs(tmp_path: Path) -> None:
    (stage,) = compiled(tmp_path, *ALONE).stages
    assert stage.stage.choosing == ("exact",)
    shown = tree(compiled(tmp_path, *ALONE))
    assert "measures the best of 5 answers by exact: 5 times the sampling, and 5 calls of each reward" in shown


def test_without_it_no_reward_is_asked(tmp_path: Path) -> None:
    (stage,) = compiled(tmp_path, put("steps", 0)).stages
    assert stage.stage.choosing == ()
    assert "best_of" not in stage.stage.evaluation.model_dump()
    assert Stage.model_validate(stage.stage.model_dump()).evaluation.best_of is None


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ((put("evaluation.sampling", {"temperature": 0}),), "evaluation.best_of.n", "at temperature 0 all of them are"),
        ((put("evaluation.best_of.reward", "exatc"),), "evaluation.best_of.reward", "there is no reward `exatc`"),
        ((put("rewards", {}),), "evaluation.best_of", "there are no rewards"),
        ((put("evaluation.sampling.group_size", 3),), "evaluation.best_of", "group_size shows several"),
        (
            (
                put("rewards.exact", {"type": "reward_model", "model": "/x", "output": "raw"}),
                put("rollout.truncated", "lowest"),
            ),
            "rewards.exact",
            "has no lowest value",
        ),
        ((put("evaluation.best_of.n", 1),), "evaluation.best_of.n", "must be at least 2"),
    ],
)
def test_what_a_recipe_may_not_say(tmp_path: Path, changes: tuple[Change, ...], path: str, message: str) -> None:
    found = problems(tmp_path, *ALONE, *changes)
    assert any(each.path == path and message in each.message for each in found), found
