"""Spoilt recipes by the thousand: each compiles, or every problem has a place; nothing else comes out."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.schema.mutations import mutated
from tests.toy.compiled import HERE
from tests.toy.world import toy_recipe
from wavalign.engine import api
from wavalign.engine.compile.compiler import compile_recipe
from wavalign.errors import PluginError, RecipeError, WavAlignError
from wavalign.schema.loading import read_recipe
from wavalign.schema.rendering import render_problems
from wavalign.schema.source import read_source

RECIPES = Path(__file__).parents[3] / "recipes"
SAMPLE, ALL, LOOKED_AT = 150, 10_000, 6


def trees(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Every recipe that comes along, written out, and the toy one, with the folder its paths count from."""
    found = [(path.parent, dict(read_source(str(path)).tree)) for path in sorted(RECIPES.rglob("*.yaml"))]
    (folder / "toy").mkdir()
    return [*found, (folder / "toy", toy_recipe(folder / "toy"))]


def complaint(file: Path) -> str:
    """What is wrong with how a recipe is refused; empty where it compiles or is refused well."""
    try:
        plan = compile_recipe(read_recipe(str(file)), HERE)
        type(plan).from_json(plan.to_json())
    except RecipeError as error:
        lost = [problem for problem in error.problems if problem.where is None]
        if not error.problems or lost:
            return f"problems without a place: {lost}"
        text = render_problems(error.problems, "text")
        json.loads(render_problems(error.problems, "json"))
        return "" if len(text) < 4000 * len(error.problems) else f"{len(text)} characters of problems"
    except PluginError:
        return ""
    except Exception as error:  # noqa: BLE001 - whatever else comes out is what is looked for
        return f"{type(error).__name__}: {str(error)[:300]}"
    return ""


def spoil(folder: Path, seeds: range) -> list[str]:
    """Seeds whose recipe is not refused well."""
    known, file, found = trees(folder), folder / "recipe.yaml", []
    for seed in seeds:
        rng = random.Random(seed)
        _, tree = known[seed % len(known)]
        text = mutated(tree, rng)
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        wrong = complaint(file)
        if wrong:
            found.append(f"seed {seed}: {wrong}")
    return found


def test_spoilt_recipes_are_refused_with_places(tmp_path: Path) -> None:
    assert spoil(tmp_path, range(SAMPLE)) == []


@pytest.mark.slow
def test_ten_thousand_spoilt_recipes(tmp_path: Path) -> None:
    assert spoil(tmp_path, range(ALL)) == []


def test_what_compiles_is_looked_at_without_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy recipe, whose preflight takes no time."""
    monkeypatch.chdir(tmp_path)
    looked, seed = 0, 0
    while looked < LOOKED_AT:
        seed += 1
        (tmp_path / "r.yaml").write_text(
            mutated(yaml.safe_load(yaml.safe_dump(toy_recipe(tmp_path))), random.Random(seed)), encoding="utf-8"
        )
        try:
            plan = compile_recipe(read_recipe(str(tmp_path / "r.yaml")), HERE)
        except WavAlignError:
            continue
        looked += 1
        try:
            api.preflight(plan)
        except WavAlignError as error:
            assert error.message  # noqa: PT017 - a run would end with this error too
