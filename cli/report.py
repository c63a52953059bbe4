"""`wavalign report`: the page of a run, or of several side by side."""

import json
from pathlib import Path
from typing import Annotated

import typer

from wavalign.errors import UsageError

from .console import say, say_table


def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Runs' folders; two or more are compared on one page.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where the page of several runs is written.")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="FILE", help="Write the times of a run's operators for a trace viewer."),
    ] = None,
) -> None:
    """Write a run's page, or one that compares several runs.

    The runs may be finished or not. With `--trace`, say where the time of a run's steps went instead.
    """
    from wavalign.engine.report.comparison import write_comparison  # `--help` shall not wait for it
    from wavalign.engine.report.page import write_report  # nor for this

    if trace is not None:
        if len(folders) > 1 or out is not None:
            raise UsageError("--trace goes with one run alone", hint="name one folder, and no --out")
        _trace(folders[0], trace)
        return
    if len(folders) == 1:
        if out is not None:
            raise UsageError("--out names the page of several runs", hint="a single run's page goes into its folder")
        say(str(write_report(folders[0])))
        return
    if out is None:
        raise UsageError("several runs need --out FILE", hint="e.g. --out comparison.html")
    say(str(write_comparison(folders, out)))


def _trace(folder: Path, file: Path) -> None:
    """Write the trace, and say how long the operators take and what stands out."""
    from wavalign.engine.report.timeline import operator_times, read_timeline, trace, what_is_slow  # as above
    from wavalign.engine.state.files import write_text

    steps = read_timeline(folder)
    write_text(file, json.dumps(trace(steps), separators=(",", ":")))
    ranks = sorted({each.rank for each in steps})
    rows = [
        (name, *(f"{found[rank]:.1f}" if rank in found else "" for rank in ranks))
        for name, found in operator_times(steps).items()
    ]
    say_table(("median ms a step", *(f"rank {rank}" for rank in ranks)), rows)
    for line in what_is_slow(steps):
        say(f"slow: {line}")
    say(
        f"{file}: {len({(each.stage, each.step) for each in steps})} steps; open it in ui.perfetto.dev or chrome://tracing"
    )
