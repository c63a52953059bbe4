"""What is dumped reads back equal."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.schema.conftest import VALID, Bench
from wavalign.schema.composer import Node, TextOrigin, compose
from wavalign.schema.dumping import dump_yaml, recipe_tree
from wavalign.schema.loading import load_recipe

TRICKY = [
    "yes",
    "no",
    "1e-6",
    "0o17",
    "017",
    "1_000",
    "1:30",
    "2026-01-31",
    "~",
    "null",
    "",
    " x ",
    "a: b",
    "# c",
    "<<",
]
TRICKY += [
    "=",
    "!x",
    "&a",
    "*a",
    "@",
    "%",
    "- a",
    "a\nb\n",
    "a\n\nb",
    "\n",
    " \n x",
    "é",
    "语",
    "\x85",
    "\u2028",
    "1.",
    ".5",
]
TRICKY += [
    ".inf",
    "-.INF",
    ".nan",
    "0x1f",
    "+1",
    "true",
    "TRUE",
    "y",
    "on",
    "'",
    '"',
    "\\",
    "\t",
    "${env:A}",
    "a" * 300,
]


def read_back(text: str) -> Any:
    composed = compose(text, TextOrigin("f", text))
    assert not composed.problems, (text, composed.problems)
    return plain(composed.root)


def plain(node: Node | None) -> Any:
    assert node is not None
    if isinstance(node.value, dict):
        return {key: plain(item) for key, item in node.value.items()}
    return [plain(item) for item in node.value] if isinstance(node.value, list) else node.value


@pytest.mark.parametrize("text", TRICKY)
def test_texts_that_look_like_something_else(text: str) -> None:
    tree = {"a": text, "b": [text, {"c": text}], "k": {text or "k": 1}}
    dumped = dump_yaml(tree)
    assert read_back(dumped) == tree
    assert yaml.safe_load(dumped)["a"] == text


words = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=8)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words
    | st.sampled_from(TRICKY)
)
trees = st.dictionaries(
    words, st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3))
)


@settings(max_examples=150)
@given(trees)
def test_any_tree_reads_back(tree: dict[str, Any]) -> None:
    hidden = dump_yaml(tree)
    if "[redacted]" not in hidden:
        assert read_back(hidden) == tree


def test_a_recipe_reads_back(bench: Bench) -> None:
    text = VALID + (
        "seed: 3\n"
        "stages:\n"
        "  - {name: a, data: {evaluation: {type: jsonl, path: x.jsonl}, demonstrations: [b, {type: c, weight: 2}]}}\n"
        "  - name: b\n"
        "    start: a\n"
        "    objective: {terms: {rl: {tokens: {text: 1, audio: 0.25}}, sft: {tokens: {type: my_mask, width: 3}}}}\n"
        "    evaluation: {metrics: {m: n}}\n"
    )
    first = bench.load(text).recipe
    dumped = dump_yaml(recipe_tree(first))
    Path("again.yaml").write_text(dumped, encoding="utf-8")
    second = load_recipe("again.yaml").recipe
    assert second == first
    assert dump_yaml(recipe_tree(second)) == dumped


def test_order_is_that_of_the_fields(bench: Bench) -> None:
    tree = recipe_tree(bench.load(VALID).recipe)
    assert list(tree) == ["name", "description", "seed", "plugins", "runtime", "stages"]
    assert next(iter(tree["stages"][0]["rewards"]["answer"])) == "type"
