"""Every recipe of an objective trains: two steps of small sizes, and what it is about shows in the plan and the log."""

import json
import math
from pathlib import Path

import pytest

from wavalign.engine.api import compile_recipe, run
from wavalign.engine.compile.plan import Plan
from wavalign.schema.loading import load_recipe

FOLDER = Path(__file__).parents[2] / "recipes" / "algorithms"
RECIPES = sorted(path.name for path in FOLDER.glob("*.yaml"))
SMALL = (
    "steps=2", "runtime.device=cpu", "runtime.threads=1", "runtime.report=false", "runtime.checkpoint_every=0",
    "evaluation.at_start=false", "evaluation.at_end=false", "evaluation.every=0", "evaluation.limit=4",
)  # fmt: skip
"""Sizes of a test, whatever the recipe is about."""
SIZES = {
    "base/pairs.yaml": ("generate.limit=6",),
    "base/rollouts.yaml": ("rollout.max_new_tokens=16",),
}
"""By what a recipe extends."""


def small(recipe: str, folder: Path) -> Plan:
    """The recipe's plan, with two steps."""
    base = recipe
    while base not in SIZES:
        lines = (FOLDER / base).read_text(encoding="utf-8").splitlines()
        (base,) = (line.removeprefix("extends: ") for line in lines if line.startswith("extends: "))
    overrides = (*SMALL, *SIZES[base], f"runtime.folder={folder / 'run'}")
    return compile_recipe(load_recipe(str(FOLDER / recipe), overrides))


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_steps(recipe: str, tmp_path: Path) -> None:
    plan = small(recipe, tmp_path)
    done = run(plan)
    lines = [json.loads(line) for line in (done / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    trained = [line for line in lines if line["split"] == "train"]
    assert len(trained) == plan.total_steps
    assert {stage.steps for stage in plan.stages if stage.terms} == {2}
    for line in trained:
        assert all(math.isfinite(value) for value in line.values() if isinstance(value, float))
        assert line["grad_norm"] > 0
    learning = [stage for stage in plan.stages if stage.terms]
    assert learning
    for stage in learning:
        first = next(line for line in trained if line["stage"] == stage.name)
        assert all(first[f"tokens/{term.name}"] > 0 for term in stage.terms if term.lives)


def test_every_objective_has_a_recipe() -> None:
    assert RECIPES
