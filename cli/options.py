"""Arguments and options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import Format

if TYPE_CHECKING:
    from wavalign.engine.compile.plan import Plan

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of one that comes along.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Put a value over the recipe's, e.g. optim.learning_rate=1e-4. Repeatable."
    ),
]
FormatOption = Annotated[
    Format,
    typer.Option("--format", help="text for people, json for programs, github for annotations in a pull request."),
]


def recipe_path(name: str) -> str:
    """The file a person means by `name`: a path, or else a recipe that comes along."""
    from .recipes import shipped  # here, because recipes.py imports this module

    if Path(name).exists() or name.endswith((".yaml", ".yml")):
        return name
    return str(shipped(name))


def compiled(recipe: str, overrides: list[str] | None) -> "Plan":
    """Load and compile a recipe for this machine."""
    from wavalign.engine import api  # brings torch, which no `--help` shall wait for

    return api.compile_recipe(api.read_recipe(recipe_path(recipe), tuple(overrides or ())), api.detect_cluster())
