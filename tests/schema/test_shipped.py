"""Recipes that come along are found by their names in `extends`; what an empty mapping and a description come to."""

import shutil
from pathlib import Path

import pytest

from tests.schema.conftest import Bench
from wavalign.schema.loading import load_recipe


@pytest.mark.parametrize("name", ["quickstart", "quickstart.yaml", "arms/sft-only", "kimi/tiny.yaml"])
def test_a_recipe_that_comes_along_is_extended_by_name(name: str, bench: Bench) -> None:
    loaded = bench.load(f"extends: {name}\nname: mine\n")
    assert loaded.recipe.name == "mine"
    tokenizer = loaded.recipe.stages[0].model.tokenizer or loaded.recipe.stages[0].model.checkpoint
    assert tokenizer is not None and Path(tokenizer).exists()


def test_a_local_file_of_that_name_comes_first(bench: Bench, valid: str) -> None:
    bench.write({"quickstart.yaml": valid})
    assert len(bench.load("extends: quickstart.yaml\nname: mine\n").recipe.stages[0].rewards) == 1


def test_a_misspelt_name_is_helped(bench: Bench) -> None:
    (problem,) = bench.problems("extends: quikstart\nname: mine\n")
    assert problem.code == "missing_file" and "wavalign recipes copy quickstart" in problem.hint


@pytest.mark.parametrize("name", ["../cli/app.py", "/etc/passwd", "__init__.py", "a" * 5000])
def test_nothing_else_of_the_package_is_a_recipe(name: str, bench: Bench) -> None:
    assert bench.problems(f"extends: {name}\n")


def test_the_recipe_of_the_readme_runs_from_an_empty_folder(bench: Bench) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    blocks = [each.split("```")[0] for each in readme.split("```yaml\n")[1:]]
    extending = [block for block in blocks if "extends: quickstart" in block]
    assert extending
    for block in extending:
        assert bench.load(block).recipe.stages


def test_a_description_is_not_inherited(bench: Bench, valid: str) -> None:
    bench.write({"base.yaml": f"{valid}description: of the base\n"})
    assert bench.load("extends: base.yaml\nname: mine\n").recipe.description == ""
    assert bench.load("extends: base.yaml\ndescription: mine\n").recipe.description == "mine"
    assert load_recipe("base.yaml").recipe.description == "of the base"


def test_an_empty_mapping_empties(bench: Bench, valid: str) -> None:
    bench.write({"base.yaml": f"{valid}evaluation: {{metrics: {{a: text_accuracy}}, every: 5}}\n"})
    assert bench.load("extends: base.yaml\n", "evaluation.metrics={}").recipe.stages[0].evaluation.metrics == {}
    stage = bench.load("extends: base.yaml\nevaluation: {metrics: {}}\n").recipe.stages[0]
    assert stage.evaluation.metrics == {} and stage.evaluation.every == 5


def test_a_file_that_only_extends_is_the_base(bench: Bench, valid: str) -> None:
    bench.write({"base.yaml": valid})
    assert bench.load("extends: base.yaml\n").recipe.name == "demo"


def test_copied_recipes_stand_alone(bench: Bench, tmp_path: Path) -> None:
    home = Path(__file__).parents[2] / "recipes"
    shutil.copytree(home, tmp_path / "all", ignore=shutil.ignore_patterns("__pycache__"))
    assert load_recipe(str(tmp_path / "all" / "quickstart.yaml")).recipe.name
