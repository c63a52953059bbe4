"""`wavalign worker`: one of several processes of a run, started by `wavalign run`; nobody types it."""

import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from .console import say
from .run import QuietOption, ReplayOption, ResumeOption


def worker(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The run's folder, with its plan.json.")],
    resume: ResumeOption = False,
    quiet: QuietOption = False,
    replay: ReplayOption = None,
) -> None:
    """Run this rank's part of a run; the first rank has the terminal."""
    from wavalign.engine.rank import replay_rank, run_rank  # brings torch, which no `--help` shall wait for
    from wavalign.engine.state.folder import RunFolder

    from .displays import make_display  # brings the report's parts

    if replay is not None:
        replay_rank(replay, say=say)
        return
    with closing(make_display(quiet=quiet, stream=sys.stdout, environment=os.environ)) as display:
        run_rank(RunFolder(folder), resume=resume, observer=display)
