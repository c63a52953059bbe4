"""The `wavalign` command: its table of commands, and the one place where errors become exit codes.

0 done, 1 the run failed, 2 usage, 3 recipe invalid, 4 plugin failed, 5 preflight failed, 6 rewards over their failure
budget, 7 the checkpoint belongs to another plan, 130 / 143 interrupted after a checkpoint was written.

Command modules import nothing heavy at their top (pydantic, torch, the engine): `wavalign --help` answers at once.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from wavalign import __version__
from wavalign.crash_log import run_folder
from wavalign.errors import Interrupted, WavAlignError
from wavalign.redaction import REDACTOR
from wavalign.terminal import redacted_streams

from . import (
    data,
    doctor,
    elsewhere,
    evaluate,
    export,
    judge,
    listen,
    pairs,
    plan,
    plugins,
    recipes,
    report,
    run,
    schema,
    validate,
    worker,
)
from .console import Format, output_format, say
from .failures import show_crash, show_error, show_interrupted
from .streams import as_full, usable_streams, watched_interrupts

usable_streams()  # before anything asks them whether they are terminals

app = typer.Typer(
    name="wavalign",
    no_args_is_help=True,
    rich_markup_mode="rich" if sys.stdout.isatty() else None,  # boxes are for terminals
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: wavalign recipes list",
)
app.command("run", epilog=run.EXAMPLES)(run.run)
app.command("validate")(validate.validate)
app.command("plan")(plan.plan)
app.add_typer(recipes.app, name="recipes")
app.add_typer(plugins.app, name="plugins")
data.app.command("pairs")(pairs.pairs)
app.add_typer(data.app, name="data")
judge.app.command("calibrate", epilog=judge.EXAMPLES)(judge.calibrate)
app.add_typer(judge.app, name="judge")
app.command("schema")(schema.schema)
app.command("report")(report.report)
app.command("listen", epilog=listen.EXAMPLES)(listen.listen)
app.command("evaluate", epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command("export", epilog=export.EXAMPLES)(export.export)
app.command("doctor")(doctor.doctor)
app.command("worker", hidden=True)(worker.worker)
elsewhere.register(app)


def _version(asked: bool) -> None:
    if asked:
        say(f"wavalign {__version__}")
        raise typer.Exit


@app.callback()
def wavalign(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Post-training for spoken-dialogue models: a recipe is checked, compiled into a plan and run."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code."""
    usable_streams()
    REDACTOR.learn_environment(os.environ)
    with redacted_streams(), watched_interrupts() as interrupted:
        return _main(arguments, interrupted)


def _main(arguments: Sequence[str] | None, interrupted: Callable[[], bool]) -> int:
    output_format.set(Format.TEXT)
    run_folder.set(None)
    try:
        app(arguments)
    except SystemExit as stop:  # how typer ends, also when all is well; its usage errors carry 2
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except WavAlignError as error:
        show_error(error)
        return error.exit_code
    except Interrupted as stop:
        show_interrupted(stop)
        return stop.exit_code
    except Exception as error:
        if run_folder.get() is None and interrupted():  # a run takes signals itself
            return 128 + signal.SIGINT
        full = as_full(error) if isinstance(error, OSError) else None
        show_crash(error) if full is None else show_error(full)
        return 1
    return 0
