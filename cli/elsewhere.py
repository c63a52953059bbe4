"""Commands that people look for under another name: what does it here."""

from collections.abc import Callable
from typing import Annotated

import typer

from wavalign.errors import UsageError

ELSEWHERE = {
    "train": "`wavalign run RECIPE`",
    "compare": "`wavalign report FOLDER FOLDER --out FILE` for runs, `wavalign evaluate --compare` for evaluations",
    "init": "`wavalign recipes copy NAME` brings a recipe here to start from",
    "new": "`wavalign recipes copy NAME` brings a recipe here to start from",
}
"""Name -> what to use."""

Rest = Annotated[list[str] | None, typer.Argument()]


def register(app: typer.Typer) -> None:
    """Answer these names with what to use; they stand in no list."""
    for name, instead in ELSEWHERE.items():
        settings = {"ignore_unknown_options": True, "allow_extra_args": True}
        app.command(name, hidden=True, context_settings=settings)(_refusing(name, instead))


def _refusing(name: str, instead: str) -> Callable[[list[str] | None], None]:
    def refuse(rest: Rest = None) -> None:
        said = " ".join([name, *(rest or ())])
        raise UsageError(f"there is no command {name} (asked for: wavalign {said})", hint=instead)

    return refuse
