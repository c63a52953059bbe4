"""`wavalign run`: train."""

from typing import Annotated

import typer

from .console import Format, output_format
from .options import FormatOption, RecipeArgument, SetOption, compiled

EXAMPLES = """Examples:

wavalign run recipes/quickstart.yaml

wavalign run my.yaml --dry-run

wavalign run my.yaml --set seed=8 --set runtime.processes=2

wavalign run my.yaml --resume
"""


def run(
    recipe: RecipeArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check recipe, data, weights, disk and devices, then stop.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with this recipe's latest unfinished run.")] = False,
    set_: SetOption = None,
    format_: FormatOption = Format.TEXT,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")] = False,
) -> None:
    """Train by a recipe and write checkpoints and a report."""
    output_format.set(format_)

    plan = compiled(recipe, set_)
    if dry_run:
        raise NotImplementedError
