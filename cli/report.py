"""`wavalign report`: the page of a run, or of several side by side."""

from pathlib import Path
from typing import Annotated

import typer

from wavalign.errors import UsageError

from .console import say


def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Runs' folders; two or more are compared on one page.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where the page of several runs is written.")
    ] = None,
) -> None:
    """Write a run's page, or one that compares several runs.

    The runs may be finished or not.
    """
    from wavalign.engine.report.comparison import write_comparison  # `--help` shall not wait for it
    from wavalign.engine.report.page import write_report  # nor for this

    if len(folders) == 1:
        if out is not None:
            raise UsageError("--out names the page of several runs", hint="a single run's page goes into its folder")
        say(str(write_report(folders[0])))
        return
    if out is None:
        raise UsageError("several runs need --out FILE", hint="e.g. --out comparison.html")
    say(str(write_comparison(folders, out)))
