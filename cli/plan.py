"""`wavalign plan`: what a run would do, without doing it."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, final

import typer

from wavalign.errors import UsageError

from . import plan_cluster
from .console import Format, output_format, say, say_json
from .options import RecipeArgument, SetOption, compiled

if TYPE_CHECKING:
    from wavalign.engine.compile.plan import Plan


@final
class View(StrEnum):
    """Forms of a plan."""

    TREE = "tree"
    JSON = "json"
    MERMAID = "mermaid"


def plan(
    recipe: RecipeArgument,
    set_: SetOption = None,
    format_: Annotated[
        View, typer.Option("--format", help="A tree to read, the whole plan as JSON, or a Mermaid chart.")
    ] = View.TREE,
    diff: Annotated[
        str | None,
        typer.Option(
            "--diff", metavar="OTHER", help="Print only what differs from OTHER's plan; --set acts on RECIPE."
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster", metavar="SPEC", help="Print what it takes on another machine, e.g. gpus=8x80,nodes=8."
        ),
    ] = None,
) -> None:
    """Print what a run would do: its graph, sizes and memory."""
    output_format.set(Format.JSON if format_ is View.JSON else Format.TEXT)
    if cluster is not None:
        if diff is not None or format_ is View.MERMAID:
            raise UsageError("--cluster goes with text or --format json alone", hint="leave out --diff and mermaid")
        plan_cluster.show(recipe, set_, cluster, as_json=format_ is View.JSON)
        return
    from . import plan_views  # needs the engine's records, which no `--help` shall wait for

    made = compiled(recipe, set_)
    if diff is not None:
        if format_ is View.MERMAID:
            raise UsageError("--diff has no chart", hint="leave --format out for lines, or take --format json")
        lines = plan_views.differences(compiled(diff, None), made)
        if format_ is View.JSON:
            say_json({"equal": not lines, "differences": lines})
        else:
            say("\n".join(lines) if lines else "the plans are equal")
    elif format_ is View.JSON:
        say(made.to_json().rstrip())
    elif format_ is View.MERMAID:
        say(plan_views.mermaid(made))
    else:
        say(plan_views.tree(made, _trained(made)))


def _trained(made: "Plan") -> dict[str, str]:
    """What adapters come to; a plan without one waits for no network's code."""
    if all(stage.stage.model.adapter is None for stage in made.stages):
        return {}
    from wavalign.engine import api  # imports the networks, which takes seconds

    return api.trained_parts(made)
