"""Relative paths count from the file that wrote them."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import Field

from tests.schema.conftest import Bench
from wavalign.schema.anchoring import anchor
from wavalign.schema.base import Params, RecipePath, Section
from wavalign.schema.source import read_source


class Entry(Section):
    """An entry."""

    file: RecipePath
    """A file."""
    label: str = ""
    """No path."""


class Options(Params):
    """Every place a path can be in."""

    one: RecipePath | None = None
    """Alone."""
    many: tuple[RecipePath, ...] = ()
    """In a list."""
    named: Mapping[str, RecipePath] = Field(default_factory=dict)
    """In a mapping."""
    entries: tuple[Entry, ...] = ()
    """In sections of a list."""
    either: int | RecipePath | Entry = 0
    """In a union."""
    text: str = ""
    """No path."""


def test_every_place_and_no_other(bench: Bench) -> None:
    bench.write(
        {
            "base/b.yaml": "p: {one: x, many: [a/b, ../c], text: plain}\n",
            "r.yaml": "extends: base/b.yaml\n"
            "p: {named: {k: v}, entries: [{file: f, label: l}], either: {file: g, label: h}, unknown: z}\n",
        }
    )
    source = read_source("r.yaml", ["p.entries.1={file: s}"])
    base, here = bench.folder / "base", bench.folder
    assert anchor(Options, source.tree["p"], source, ("p",)) == {
        "one": str(base / "x"),
        "many": [str(base / "a" / "b"), str(here / "c")],
        "text": "plain",
        "named": {"k": str(here / "v")},
        "entries": [{"file": str(here / "f"), "label": "l"}, {"file": str(here / "s")}],
        "either": {"file": str(here / "g"), "label": "h"},
        "unknown": "z",
    }


def test_set_counts_from_the_working_directory(bench: Bench) -> None:
    bench.write({"deep/r.yaml": "p: {one: x}\n"})
    source = read_source("deep/r.yaml", ["p.one=y", "p.either=w"])
    assert anchor(Options, source.tree["p"], source, ("p",)) == {
        "one": str(bench.folder / "y"),
        "either": str(bench.folder / "w"),
    }


@pytest.mark.parametrize("value", ["s3://bucket/x", "hf://org/model", "/abs/x", "${env:FOLDER}", ""])
def test_left_alone(bench: Bench, value: str) -> None:
    bench.write({"r.yaml": f"p: {{one: '{value}'}}\n"})
    source = read_source("r.yaml")
    assert anchor(Options, source.tree["p"], source, ("p",)) == {"one": value}


def test_home(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere/someone")
    bench.write({"r.yaml": "p: {one: ~/x}\n"})
    source = read_source("r.yaml")
    assert anchor(Options, source.tree["p"], source, ("p",)) == {"one": "/somewhere/someone/x"}


def test_sections_of_a_recipe(bench: Bench, valid: str) -> None:
    bench.write({"base/b.yaml": valid.replace("preset: tiny", "checkpoint: weights") + "plugins: [mine.py]\n"})
    text = "extends: base/b.yaml\nstages: [{name: a, model: {tokenizer: tok}}, {name: b}]\nruntime: {folder: out}\n"
    recipe = bench.load(text).recipe
    assert recipe.plugins == (str(bench.folder / "base" / "mine.py"),)
    assert recipe.runtime.folder == str(bench.folder / "out")
    first, second = recipe.stages
    assert (first.model.checkpoint, first.model.tokenizer) == (
        str(bench.folder / "base" / "weights"),
        str(bench.folder / "tok"),
    )
    assert second.model.tokenizer is None


def test_options_of_a_single_source_without_its_list(bench: Bench) -> None:
    bench.write({"d/r.yaml": "data: {prompts: {type: jsonl, one: gold.jsonl}}\n"})
    source = read_source("d/r.yaml")
    anchored = anchor(Options, {"one": "gold.jsonl"}, source, ("data", "prompts", 0))
    assert anchored == {"one": str(Path.cwd() / "d" / "gold.jsonl")}
