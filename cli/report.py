"""`wavalign report`: the page of a run."""

from pathlib import Path
from typing import Annotated

import typer

from .console import say


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A run's folder, e.g. runs/quickstart/20260101-120000-ab12.")
    ],
) -> None:
    """Write the report of a run, finished or not, from its folder."""
    from wavalign.engine.report.page import write_report  # `--help` shall not wait for it

    say(str(write_report(folder)))
