"""Arguments and options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import completion
from .console import Format, status

if TYPE_CHECKING:
    from wavalign.engine.compile.plan import Plan

RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe file, or the name of one that comes along.",
        autocompletion=completion.recipes,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Put a value over the recipe's, e.g. optim.learning_rate=1e-4. Repeatable.",
        autocompletion=completion.settings,
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


def compiled(recipe: str, overrides: list[str] | None, *, nodes: int = 0, slots: int = 0) -> "Plan":
    """Load and compile a recipe for this machine, or for as many machines with so many slots each."""
    with status(f"checking {recipe}"):
        # Not through the engine's surface: this brings torch, but no network's layers, and `--help` waits for neither.
        from wavalign.engine.compile.cluster import detect_cluster
        from wavalign.engine.compile.compiler import compile_recipe
        from wavalign.schema.loading import read_recipe

        cluster = detect_cluster().model_copy(update={"nodes": nodes, "slots": slots})
        return compile_recipe(read_recipe(recipe_path(recipe), tuple(overrides or ())), cluster)
