"""Compile variations of the toy recipe in this process."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.toy.world import toy_recipe, write_recipe
from wavalign.engine.compile.compiler import compile_recipe
from wavalign.engine.compile.plan import Cluster, Graph, Plan, StagePlan
from wavalign.errors import Problem, RecipeError
from wavalign.schema.loading import load_recipe

HERE = Cluster(cores=2, host_bytes=8 << 30)
Change = Callable[[dict[str, Any]], object]
"""Edits a recipe in place."""


def compiled(folder: Path, *changes: Change, cluster: Cluster = HERE, overrides: tuple[str, ...] = ()) -> Plan:
    """The plan of the toy recipe after `changes`."""
    recipe = toy_recipe(folder)
    for change in changes:
        change(recipe)
    return compile_recipe(load_recipe(write_recipe(folder, recipe), overrides), cluster)


def only_stage(plan: Plan) -> StagePlan:
    """The stage of a plan that has one."""
    (stage,) = plan.stages
    return stage


def graph(folder: Path, *changes: Change) -> Graph:
    """The graph of its only stage."""
    return only_stage(compiled(folder, *changes)).graph


def problems(folder: Path, *changes: Change, cluster: Cluster = HERE) -> list[Problem]:
    """What is wrong with the toy recipe after `changes`."""
    with pytest.raises(RecipeError) as caught:
        compiled(folder, *changes, cluster=cluster)
    return list(caught.value.problems)


def put(path: str, value: object) -> Change:
    """Set a dotted path."""

    def change(recipe: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        section = recipe
        for name in parents:
            section = section.setdefault(name, {})
        section[last] = copy.deepcopy(value)  # a later change must not reach into a shared one

    return change


def drop(path: str) -> Change:
    """Remove a dotted path."""

    def change(recipe: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        section = recipe
        for name in parents:
            section = section[name]
        del section[last]

    return change
