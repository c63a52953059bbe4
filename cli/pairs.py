"""`wavalign data pairs`: preferences, or the best answers, of files of answers."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from . import completion
from .console import Format, output_format, say, say_json, status
from .data import guessed, plain_options


def pairs(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="Files, patterns or folders of answers, e.g. RUN/stages/sample/data."),
    ],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Where the records go, as JSONL.")],
    by: Annotated[
        str, typer.Option("--by", metavar="WAY", help="golden, scored, best or given (see docs/pairs.md).")
    ] = "golden",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An option of a recipe's pairs section. Repeatable."),
    ] = None,
    type_: Annotated[
        str | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            help="The kind of source, where it is not to be guessed.",
            autocompletion=completion.data_types,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of what is drawn by lot.")] = 0,
    format_: Annotated[Format, typer.Option("--format", help="text for people, json for programs.")] = Format.TEXT,
) -> None:
    """Pair answers as a `pairs` stage does, by the scores that their records hold; say what is left out and why."""
    output_format.set(format_)
    with status("loading the engine"):
        from wavalign.engine.run.data_check import source_of  # brings torch: `--help` shall not wait
        from wavalign.engine.run.pair_files import section_of, write_pairs

    section = section_of({**plain_options(set_ or []), "type": by})
    opened = []
    for each in sources:
        path = each if "://" in each else str(Path(each).expanduser())
        source = source_of(type_ if type_ is not None else guessed(each), {"path": path})
        source.prepare(lambda *_: None)
        opened.append(source)
    found = write_pairs(opened, section, output, seed=seed)
    if format_ is Format.JSON:
        say_json({"ok": True, "output": output, **dataclasses.asdict(found)})
        return
    what = "best answers" if by == "best" else "pairs"
    say(f"{output}: {found.made} {what} of {found.answers} records, {found.prompts} prompts")
    for reason, count in found.left_out.items():
        say(f"  left out: {count} {reason}")
