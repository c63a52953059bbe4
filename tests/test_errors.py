"""Errors stay readable, whatever they quote."""

from pathlib import Path

import pytest

from wavalign.engine.api import compile_recipe, load_recipe
from wavalign.engine.compile.plan import Cluster
from wavalign.errors import MOST_SAID, DataError, Problem, RecipeError, quoted
from wavalign.schema.rendering import render_problems


def test_long_text_is_quoted_by_its_ends_and_its_length() -> None:
    assert quoted("short") == "short"
    said = quoted("a" * 100_000 + "z")
    assert len(said) < 120
    assert said.startswith("aaa")
    assert said.endswith("z")
    assert "100,001 characters" in said


def test_no_error_and_no_problem_is_longer_than_a_person_reads() -> None:
    long = "x" * 300_000
    error, problem = DataError(long, hint=long), Problem("c", long, long, long)
    texts = (error.message, error.hint, str(error), problem.path, problem.message, problem.hint)
    assert max(map(len, texts)) < MOST_SAID + 100


@pytest.mark.parametrize(
    "text",
    [
        "model: {architecture: {type: LONG}}",
        "model: {architecture: {type: vita, LONG: 1}, preset: tiny}",
        "model: {architecture: vita, preset: LONG}\nLONG: 3",
        "model: {architecture: vita}\nstages: [{name: LONG}]",
        "model: {architecture: vita}\nstages: [{name: a, start: LONG}]",
        "model: {architecture: vita}\nobjective: {terms: {a: {loss: grpo, share: LONG}}}",
        "model: {architecture: vita, adapter: {type: LONG}}",
        "model: {architecture: *LONG}",
        "model: !LONG {architecture: vita}",
        "model: {architecture: vita}\nruntime: {folder: LONG, threads: LONG}",
        "LONG",
        "extends: LONG",
    ],
)
def test_a_recipe_with_a_huge_text_gives_a_short_report(text: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("name: a\n" + text.replace("LONG", "L" * 200_000) + "\n", encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        compile_recipe(load_recipe(str(file)), Cluster())
    for form in ("text", "json", "github"):
        assert len(render_problems(caught.value.problems, form)) < 6000 * len(caught.value.problems)
