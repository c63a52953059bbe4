"""However a recipe is broken, loading it ends in a Recipe or in problems with places, never in a traceback."""

import copy
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from tests.schema.conftest import VALID
from wavalign.errors import Problem, RecipeError
from wavalign.schema.base import Params, RecipePath, Section
from wavalign.schema.loading import load_recipe, read_params, render_problems
from wavalign.schema.source import read_source

FULL = (
    VALID
    + """\
seed: 3
plugins: [mine.py]
batch: {prompts: 4, micro_batch: 2}
rollout: {sampler: kv_cache, group_size: 4, temperature: 0.9}
optim: {betas: [0.9, 0.95], schedule: {shape: cosine, warmup_steps: 3}}
evaluation: {metrics: {a: {type: b, x: [1, {y: 2}]}}, limit: 5}
runtime: {engine: {type: deepspeed, zero: 2}, processes: auto, trackers: [tensorboard, {type: wandb}], folder: out}
stages:
  - {name: one, steps: 3, data: {demonstrations: [{type: jsonl, weight: 2}, b], evaluation: {heldout: {type: c}}}}
  - {name: two, start: one, model: {freeze: [mtp]}, objective: {terms: {rl: {tokens: {text: 1, audio: 0.5}}}}}
"""
)
TREE: dict[str, Any] = yaml.safe_load(FULL)
WORDS = [
    "type",
    "params",
    "name",
    "stages",
    "weight",
    "model",
    "text",
    "train",
    "auto",
    "gate",
    "${env:A}",
    "x",
    "0",
    "yes",
]

junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3),
    max_leaves=5,
)


def paths(tree: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, item in items:
        yield (*at, key)
        yield from paths(item, (*at, key))


PATHS = list(paths(TREE))


@st.composite
def mutations(draw: st.DrawFn) -> dict[str, Any]:
    """A valid recipe with one to three nodes deleted, renamed or replaced."""
    tree = copy.deepcopy(TREE)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(PATHS))
        parent: Any = tree
        try:
            for part in path[:-1]:
                parent = parent[part]
            value = parent[path[-1]]
        except (KeyError, IndexError, TypeError):
            continue
        action = draw(st.sampled_from(["delete", "rename", "retype", "add"]))
        if action == "retype":
            parent[path[-1]] = draw(junk)
        elif action == "delete":
            del parent[path[-1]]
        elif action == "rename" and isinstance(parent, dict):
            del parent[path[-1]]
            parent[draw(st.sampled_from([*WORDS, f"{path[-1]}x"]))] = value
        elif action == "add" and isinstance(value, dict):
            value[draw(st.sampled_from(WORDS))] = draw(junk)
    return tree


def check(text: str | bytes, overrides: tuple[str, ...] = ()) -> None:
    """Load `text`; whatever is wrong must have a place within the files."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.yaml"
        file.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
        lines = file.read_bytes().decode("utf-8", "replace").splitlines() or [""]
        found = problems(str(file), overrides)
        for problem in found:
            assert problem.where is not None
            assert problem.message
            assert "Input should" not in problem.message
            if problem.where.file == str(file):
                assert 1 <= problem.where.line <= len(lines) + 1
        for form in ("text", "json", "github"):
            assert bool(found) <= bool(render_problems(found, form))


def problems(file: str, overrides: tuple[str, ...]) -> tuple[Problem, ...]:
    """What is wrong with a file, if anything; any other exception fails the test."""
    try:
        load_recipe(file, overrides)
    except RecipeError as error:
        return error.problems or (Problem("none", "", ""),)
    return ()


def test_the_recipe_that_is_mutated_is_right() -> None:
    check(FULL)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.yaml"
        file.write_text(FULL, encoding="utf-8")
        assert [stage.name for stage in load_recipe(str(file)).recipe.stages] == ["one", "two"]


@settings(max_examples=120)
@given(mutations(), st.booleans())
def test_mutated_trees(tree: dict[str, Any], flow: bool) -> None:
    check(yaml.safe_dump(tree, default_flow_style=flow, allow_unicode=True))


@settings(max_examples=100)
@given(st.data())
def test_mutated_text(data: st.DataObject) -> None:
    text = FULL
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        length = data.draw(st.integers(0, 6))
        pieces = [
            "",
            "\t",
            ": ",
            "- ",
            "\n",
            "{",
            "]",
            "'",
            '"',
            "&a ",
            "*a",
            "!x ",
            "!replace ",
            "#",
            "? ",
            "|",
            "%",
            "\x00",
        ]
        text = text[:at] + data.draw(st.sampled_from(pieces) | st.text(max_size=3)) + text[at + length :]
    check(text)


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_any_bytes(content: bytes) -> None:
    check(content)


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(PATHS).map(lambda path: ".".join(map(str, path))) | st.text(max_size=8), junk | st.text()
        )
        .map(lambda pair: f"{pair[0]}={pair[1]}")
        .filter(lambda argument: "\ud800" not in argument),
        max_size=3,
    )
)
def test_any_override(arguments: list[str]) -> None:
    check(FULL, tuple(arguments))


class Nested(Section):
    """Nested."""

    file: RecipePath
    """A file."""
    shape: int | tuple[float, float] = 1
    """A shape."""


class Options(Params):
    """Options with every kind of field."""

    number: float
    """A number."""
    nested: Nested | None = None
    """More."""
    several: Mapping[str, Nested] = Field(default_factory=dict)
    """Many more."""
    either: Nested | list[int] | bool = True
    """This or that."""


@settings(max_examples=100)
@given(
    st.dictionaries(st.sampled_from(["number", "nested", "several", "either", "numbr"]), junk)
    | st.fixed_dictionaries(
        {
            "number": st.floats(0, 1) | junk,
            "nested": st.fixed_dictionaries({"file": junk, "shape": junk}) | junk,
            "several": st.dictionaries(st.sampled_from("ab"), st.fixed_dictionaries({"file": junk}) | junk, max_size=2),
            "either": junk | st.lists(st.integers(0, 9), max_size=2) | st.fixed_dictionaries({"file": st.just("f")}),
        }
    )
)
def test_any_plugin_options(params: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.yaml"
        file.write_text(yaml.safe_dump({"gate": {"type": "g", **params}}, allow_unicode=True), encoding="utf-8")
        try:
            source = read_source(str(file))
        except RecipeError:
            return
        options = {key: item for key, item in source.tree["gate"].items() if key != "type"}
        made, found = read_params(Options, options, prefix=("gate",), source=source)
        assert (made is None) == bool(found)
        assert all(problem.where is not None and problem.path.startswith("gate") for problem in found)
