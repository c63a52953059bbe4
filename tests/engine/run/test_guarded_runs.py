"""Guards in runs: what a plan shows and refuses, what is logged, and that processes agree."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import run_ranks
from tests.e2e.runs import comparable
from tests.engine.run.test_trainer import Signals, run
from tests.toy.compiled import Change, compiled, only_stage, problems, put
from wavalign.engine.compile.plan import Plan
from wavalign.engine.run.trainer import Trainer
from wavalign.engine.state.distributed import World
from wavalign.engine.state.folder import RunFolder
from wavalign.schema.pairs import BestAnswers, rewards_asked
from wavalign.schema.reward import RewardSection

SHORT = {"type": "overlong", "limit": 4, "buffer": 1, "guard": "lowest"}
"""Trips where an answer has four text tokens or more."""
GUARDED: tuple[Change, ...] = (put("rewards.short", SHORT), put("steps", 3))


def train_lines(folder: Path) -> list[dict[str, Any]]:
    return [each for each in comparable(folder / "metrics.jsonl") if each["split"] == "train"]


def answers(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(each) for each in (folder / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()]
    return [each for each in lines if each["split"] == "train"]


def test_what_trips_is_logged_and_worth_the_lowest(tmp_path: Path) -> None:
    folder = run(tmp_path, *GUARDED, put("runtime.log_rollouts_every", 1))
    plan = only_stage(compiled(tmp_path, *GUARDED))
    (guard,) = (each for each in plan.graph.operators if each.of == "short")
    assert guard.detail == "overlong, guard: lowest below its middle"
    (first, *_) = train_lines(folder)
    assert 0 < first["reward/short/tripped"] < 1
    assert first["reward/short/failed"] == first["reward/short/absent"] == 0
    found = answers(folder)
    tripped = [each for each in found if each["tripped"]]
    assert tripped and len(tripped) < len(found)
    for each in found:
        assert each["tripped"] == (["short"] if each["reward/short"] < -0.5 else [])
        assert each["reward"] == (1 if each["tripped"] else each["reward/exact"])
    assert any(each["reward/exact"] == 5 and each["tripped"] for each in found), "a right answer that is too long"


def rank(world: World, plan: str, folder: str) -> bool:
    Trainer(Plan.from_json(plan), RunFolder(Path(folder)), world, Signals(-1)).run(resume=False)
    return True


@pytest.mark.parametrize("rule", ["lowest", "drop_sample", "multiply"])
def test_two_processes_agree(tmp_path: Path, rule: str) -> None:
    changes = (*GUARDED, put("rewards.short.guard", rule), put("steps", 2))
    (tmp_path / "run").mkdir()
    plan = compiled(tmp_path, *changes, put("runtime.processes", 2))
    assert run_ranks(rank, 2, plan.to_json(), str(tmp_path / "run")) == [True, True]
    alone = run(tmp_path / "alone", *changes)
    for ours, theirs in zip(train_lines(tmp_path / "run"), train_lines(alone), strict=True):
        same = ("reward", "reward_std", "reward/exact", "reward/short", "reward/short/tripped", "gate")
        assert {name: ours[name] for name in same} == pytest.approx({name: theirs[name] for name in same})


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ((put("rewards.exact", {"type": "toy_exact", "guard": "lowest"}),), "rewards", "all rewards are guards"),
        ((put("rewards.short.below", -1),), "rewards.short.below", "no answer would trip"),
        ((put("rewards.short.below", 0.5),), "rewards.short.below", "every answer would trip"),
        ((put("rewards.short.below", "x"),), "rewards.short.below", "number"),
        ((put("rewards.short.weight", 2),), "rewards.short", "neither `weight` nor `scale`"),
        (
            (put("rewards.exact", {"type": "reward_model", "model": "/x", "output": "raw"}),),
            "rewards.short.guard",
            "reward `exact` has no lowest value",
        ),
        (
            (put("rewards.judge", {"type": "reward_model", "model": "/x", "output": "raw", "guard": "drop_sample"}),),
            "rewards.judge",
            "which has no middle",
        ),
        (
            (put("rewards.judge", {"type": "reward_model", "model": "/x", "output": "raw", "guard": "multiply"}),),
            "rewards.judge.guard",
            "no share to multiply by",
        ),
        (
            (
                put("evaluation.sampling", {"temperature": 0.8}),
                put("evaluation.best_of", {"n": 2, "reward": "short"}),
                put("steps", 0),
            ),
            "evaluation.best_of.reward",
            "`short` is a guard",
        ),
    ],
)
def test_what_a_recipe_may_not_say(tmp_path: Path, changes: tuple[Change, ...], path: str, message: str) -> None:
    found = problems(tmp_path, *GUARDED, *changes)
    assert any(each.path == path and message in each.message for each in found), found


def test_the_best_of_several_passes_the_guards(tmp_path: Path) -> None:
    """Nobody asks for the guard by name; it is asked."""
    best = (put("evaluation.sampling", {"temperature": 0.8}), put("evaluation.best_of", {"n": 3, "reward": "exact"}))
    (stage,) = compiled(tmp_path, *GUARDED, *best, put("steps", 0)).stages
    assert stage.stage.choosing == ("exact", "short")


def test_pairs_ask_the_guards_whatever_facets_are_named() -> None:
    section = BestAnswers.model_validate({"type": "best", "facets": {"exact": {}}})
    rewards = {
        name: RewardSection.model_validate(each)
        for name, each in {"exact": {"type": "x"}, "other": {"type": "x"}, "short": SHORT}.items()
    }
    assert rewards_asked(section, rewards) == ("exact", "short")
    assert rewards_asked(section.model_copy(update={"facets": {}}), rewards) == ("exact", "other", "short")
