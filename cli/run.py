"""`wavalign run`: train."""

import os
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

import typer

from wavalign.errors import PreflightError, UsageError

from . import launching
from .console import Format, note, output_format, say, say_json, say_table, status
from .launching import (
    Asked,
    HostfileOption,
    Launcher,
    LauncherOption,
    MasterOption,
    PrintOption,
    RemoteOption,
    SlurmOption,
)
from .options import FormatOption, RecipeArgument, SetOption

if TYPE_CHECKING:
    from wavalign.engine.compile.plan import Plan
    from wavalign.engine.compile.preflight import Finding, Preflight

    from .launching import Target

EXAMPLES = """Examples:

wavalign run recipes/quickstart.yaml

wavalign run my.yaml --dry-run

wavalign run my.yaml --set seed=8 --set runtime.processes=2

wavalign run my.yaml --resume

wavalign run my.yaml --resume --from step-40

wavalign run my.yaml --resume --from s3://bucket/runs/mine

wavalign run my.yaml --resume --accept reward.answer

wavalign run --replay runs/my/20260301-101500-a1b2c3/skipped/step-40

wavalign run my.yaml --hostfile hosts

wavalign run my.yaml --launcher slurm --slurm time=24:00:00 --print
"""

WORKER = ("-m", "wavalign_cli", "worker")

DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Check recipe, data, weights, disk and memory, then stop.")
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with this recipe's latest unfinished run, or the one in runtime.folder.")
]
FromOption = Annotated[
    str,
    typer.Option(
        "--from",
        metavar="CHECKPOINT",
        help="With --resume: from this one (step-40, or its path), or from a run's copy in a store (s3://...).",
    ),
]
AcceptOption = Annotated[
    list[str] | None,
    typer.Option(
        "--accept",
        metavar="NAME",
        help="With --resume: this reward or metric (reward.NAME, metric.NAME) may have changed. Repeatable.",
    ),
]
ReplayOption = Annotated[
    Path | None,
    typer.Option(
        "--replay",
        metavar="UPDATE",
        help="Compute a skipped update (RUN/skipped/step-N) again and say where its first NaN or infinity arises.",
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and the run's folder.")]


def run(
    recipe: RecipeArgument = "",
    dry_run: DryRunOption = False,
    resume: ResumeOption = False,
    from_: FromOption = "",
    accept: AcceptOption = None,
    replay: ReplayOption = None,
    hostfile: HostfileOption = None,
    launcher: LauncherOption = Launcher.AUTO,
    print_: PrintOption = False,
    remote: RemoteOption = "",
    master: MasterOption = "",
    slurm: SlurmOption = None,
    set_: SetOption = None,
    format_: FormatOption = Format.TEXT,
    quiet: QuietOption = False,
) -> None:
    """Train by a recipe and write checkpoints and a report."""
    output_format.set(format_)
    if replay is not None:
        _replay(replay, recipe)
        return
    if not recipe:
        raise UsageError("Missing argument 'RECIPE'.", hint="wavalign run --help")
    if (from_ or accept) and not resume:
        raise UsageError("--from and --accept go with --resume", hint="add --resume, or leave them out")
    if slurm and launcher is not Launcher.SLURM:
        raise UsageError("--slurm goes with --launcher slurm", hint="add it, or leave --slurm out")
    resuming = (*(["--from", from_] if from_ else []), *(word for each in accept or () for word in ("--accept", each)))
    asked = Asked(
        recipe, tuple(set_ or ()), hostfile, launcher, remote, master, tuple(slurm or ()), resume, resuming, quiet
    )  # fmt: skip
    if launching.submits(asked, os.environ):
        launching.submit(asked, show=print_)
        return
    if launcher is Launcher.DEEPSPEED:
        launching.hand_over(asked, show=print_)
        return
    found = launching.target(asked, os.environ)
    if dry_run:
        _look(found.plan, format_)
    elif print_:
        launching.show_commands(found)
    else:
        _run(found, _Resuming(resume, from_, frozenset(accept or ())), format_, quiet=quiet)


@final
@dataclass(frozen=True, slots=True)
class _Resuming:
    """Whether and how a run is gone on with."""

    asked: bool
    at: str
    accept: frozenset[str]


def _run(found: "Target", resuming: _Resuming, form: Format, *, quiet: bool) -> None:
    with status("loading the engine"):
        from wavalign.engine import api  # brings the networks, which no `--help` shall wait for

        from .displays import make_display  # brings the report's parts

    silent = quiet or form is not Format.TEXT
    with closing(make_display(quiet=silent, stream=sys.stdout, environment=os.environ)) as display:
        resume = api.Resume(at=resuming.at, accept=resuming.accept) if resuming.asked else False
        if found.place is not None:
            folder = api.run_as_rank(found.plan, found.place, resume=resume, observer=display)
        else:
            worker = (*WORKER, "--quiet") if silent else WORKER
            folder = api.run(found.plan, resume=resume, observer=display, worker=worker, nodes=found.nodes)
    if found.place is not None and found.place.rank:
        return  # the first process speaks
    if form is Format.JSON:
        say_json({"ok": True, "folder": str(folder)})
    elif quiet:
        say(str(folder))


def _replay(place: Path, recipe: str) -> None:
    if recipe:
        raise UsageError("--replay takes the plan that is in the run's folder", hint="leave the recipe out")
    with status("loading the engine"):
        from wavalign.engine import api  # brings the networks, which no `--help` shall wait for

    api.replay(place, say, worker=WORKER)


def _look(plan: "Plan", form: Format) -> None:
    """Print what preflight finds; PreflightError when something stands in the way of the run."""
    with status("looking at data, weights and memory"):
        from wavalign.engine import api  # brings torch, which no `--help` shall wait for

        found = api.preflight(plan)
    if form is Format.JSON:
        say_json({"ok": not found.errors, "findings": [_finding(each) for each in found.findings]})
        if found.errors:
            raise typer.Exit(PreflightError.exit_code)  # the object printed says it all
        return
    if form is Format.TEXT:
        _print(found)
    if found.errors:
        first = found.errors[0]
        more = f" (and {len(found.errors) - 1} more)" if len(found.errors) > 1 else ""
        raise PreflightError(f"{_place(first.stage, first.what)}: {first.message}{more}", hint=first.hint)
    if form is Format.TEXT:
        note("the run can start")


def _print(found: "Preflight") -> None:
    from .plan_views import memory_lines  # needs the engine's records, which no `--help` shall wait for

    rows = [
        (_place(each.stage, each.what), each.level, each.message + (f"; {each.hint}" if each.hint else ""))
        for each in found.findings
    ]
    say_table(("looked at", "", "found"), rows)
    for stage, memory in found.memory:
        say("\n".join(memory_lines(memory, f"stage {stage}: ")))


def _finding(finding: "Finding") -> dict[str, str]:
    return {
        "stage": finding.stage,
        "what": finding.what,
        "level": finding.level,
        "message": finding.message,
        "hint": finding.hint,
    }


def _place(stage: str, what: str) -> str:
    return f"{stage}: {what}" if stage else what
