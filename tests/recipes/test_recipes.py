"""Every recipe that comes along loads, compiles, and leads to the plan that was agreed on.

The golden files are summaries for readers; after a change that is meant, `pytest tests/recipes --update-golden` writes
them again and the difference is looked at like any other.
"""

from pathlib import Path

import pytest

from tests.recipes.summary import summary
from wavalign.engine.compile.compiler import compile_recipe
from wavalign.engine.compile.plan import Cluster, Plan
from wavalign.schema.loading import load_recipe

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
RECIPES = sorted(path.relative_to(ROOT / "recipes") for path in (ROOT / "recipes").rglob("*.yaml"))
CLUSTER = Cluster(gpus=8, gpu_bytes=80 << 30, cores=64, host_bytes=512 << 30)
"""A machine of its own, so that the files do not follow the one the tests run on."""


def golden(recipe: Path) -> Path:
    return GOLDEN / recipe.with_suffix(".txt")


def plan_of(recipe: Path) -> Plan:
    return compile_recipe(load_recipe(str(ROOT / "recipes" / recipe)), CLUSTER)


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_the_plan_is_the_agreed_one(recipe: Path, update_golden: bool) -> None:
    plan = plan_of(recipe)
    assert Plan.from_json(plan.to_json()) == plan
    found, path = summary(plan), golden(recipe)
    if update_golden:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found, encoding="utf-8")
    assert path.exists(), f"no golden plan for {recipe}: run `pytest tests/recipes --update-golden` and look at it"
    assert found == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_it_says_what_it_is_for(recipe: Path) -> None:
    """`wavalign recipes list` shows the description."""
    assert plan_of(recipe).description.endswith(".")


def test_there_are_recipes_and_no_golden_plan_outlives_its_recipe(update_golden: bool) -> None:
    assert RECIPES
    wanted = {golden(recipe) for recipe in RECIPES}
    left = sorted(path for path in GOLDEN.rglob("*.txt") if path not in wanted)
    if update_golden:
        for path in left:
            path.unlink()
        left = []
    assert left == []
