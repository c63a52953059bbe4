"""`wavalign data`: what is in the data, and what is wrong with it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wavalign.errors import UsageError

from . import completion
from .console import Format, note, output_format, say, say_json, say_table, status
from .options import RecipeArgument, SetOption, compiled
from .show_rows import show_rows

if TYPE_CHECKING:
    from wavalign.engine.feeding.inspection import ColumnLook, DataLook, HeadingLook

app = typer.Typer(no_args_is_help=True, help="Look at data before a run does.")

PROBLEMS = 1
"""Exit code where anything is wrong."""

HeadingOption = Annotated[
    list[str] | None,
    typer.Option(
        "--heading",
        metavar="NAME",
        help="Of a recipe, only this one, e.g. prompts. Repeatable.",
        autocompletion=completion.headings,
    ),
]


@app.callback()
def data() -> None:
    """Look at data before a run does."""


@app.command("check")
def check(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A recipe, or a file, pattern or folder of data.",
            autocompletion=completion.recipes_or_data,
        ),
    ],
    heading: HeadingOption = None,
    type_: Annotated[
        str | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            help="The kind of source, where it is not to be guessed.",
            autocompletion=completion.data_types,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="An option of the recipe or the source. Repeatable.",
            autocompletion=completion.settings,
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Look at so many records of each source.")] = None,
    sounds: Annotated[bool, typer.Option("--audio/--no-audio", help="Open every sound file.")] = True,
    tokens: Annotated[bool, typer.Option("--tokens", help="Count tokens under the recipe's model.")] = False,
    format_: Annotated[Format, typer.Option("--format", help="text for people, json for programs.")] = Format.TEXT,
) -> None:
    """Read every record; say what each column holds and everything that is wrong.

    Exit code 0 when all is well, 1 when anything is wrong.
    """
    output_format.set(format_)
    with status("loading the engine"):
        from wavalign.engine.run.data_check import check_recipe, check_source  # brings torch: `--help` shall not wait

    if _is_recipe(source) and type_ is None:
        plan = compiled(source, set_)
        look = check_recipe(plan, only=heading or (), limit=limit, sounds=sounds, tokens=tokens)
    else:
        if heading or tokens:
            raise UsageError("--heading and --tokens are for recipes", hint=f"{source} is looked at as data")
        kind = type_ if type_ is not None else guessed(source)
        options = {"path": source if "://" in source else str(Path(source).expanduser()), **plain_options(set_ or [])}
        look = check_source(kind, options, limit=limit, sounds=sounds)
    _show(look, format_)
    if look.problems:
        raise typer.Exit(PROBLEMS)


@app.command("show")
def show(
    recipe: RecipeArgument,
    heading: HeadingOption = None,
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, max=1000, help="Rows of each heading, spread over it.")
    ] = 1,
    stage: Annotated[
        str | None, typer.Option("--stage", metavar="NAME", help="Whose rows; omitted, those of the first train stage.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Leave no position out, also of long runs of codes.")] = False,
    set_: SetOption = None,
    format_: Annotated[Format, typer.Option("--format", help="text for people, json for programs.")] = Format.TEXT,
) -> None:
    """Show rows as the model will see them: tokens, their roles, and where each term of the objective has weight.

    Without --heading those of the prompts and the demonstrations; `evaluation` means all that are held out. No network
    is built. For a prompt the answer to imitate, where it has one, stands for the answers that will be sampled.
    """
    output_format.set(format_)
    plan = compiled(recipe, set_)
    with status("writing rows"):
        from wavalign.engine.run.preview import preview  # brings torch: `--help` shall not wait

        rows = preview(plan, headings=heading or (), stage=stage, count=count, progress=lambda *_: None)
    if format_ is Format.JSON:
        say_json({"ok": True, "rows": [dataclasses.asdict(row) for row in rows]})
    else:
        show_rows(rows, every=every)


def _is_recipe(source: str) -> bool:
    from .recipes import catalog  # `--help` shall not wait for it

    return source.endswith((".yaml", ".yml")) or (source in catalog() and not Path(source).exists())


def guessed(source: str) -> str:
    """The kind of source by its name and, for JSON lines, by its first line."""
    folder = Path(source)
    if folder.is_dir():
        names = {path.name for path in folder.rglob("*")}
        hub = names & {"state.json", "dataset_dict.json", "README.md"}
        if not hub and any(name.endswith(".jsonl") for name in names):
            return _flavour(next(folder.rglob("*.jsonl")))
        return "hf_dataset"
    if source.endswith(".parquet"):
        return "parquet"
    if source.endswith(".json"):
        return "research_jsonl"
    if source.endswith((".jsonl", ".ndjson")):
        return _flavour(folder) if folder.is_file() else "jsonl"
    raise UsageError(
        f"{source} is no recipe, and its name does not say what data it is",
        hint="--type jsonl, parquet, hf_dataset or research_jsonl; `wavalign recipes list` shows the recipes",
    )


def _flavour(path: Path) -> str:
    """`research_jsonl` where the first line has a field that only that format has."""
    with path.open("rb") as file:
        first = file.readline()
    if b'"chosen_path"' in first:
        return "slamkit_jsonl"
    fields = (b'"content"', b'"audios"', b'"sft_target_text"', b'"question_audio"', b'"answer_text"')
    return "research_jsonl" if any(field in first for field in fields) else "jsonl"


def plain_options(given: list[str]) -> dict[str, Any]:
    """`columns.text=question` as {columns: {text: question}}."""
    import yaml  # `--help` shall not wait for it

    options: dict[str, Any] = {}
    for each in given:
        path, sign, text = each.partition("=")
        if not sign or not path:
            raise UsageError(f"--set {each} is not of the form KEY=VALUE", hint="e.g. --set columns.text=question")
        *parents, last = path.split(".")
        section = options
        for name in parents:
            section = section.setdefault(name, {})
            if not isinstance(section, dict):
                raise UsageError(f"--set {each}: {name} has a value already", hint="set one or the other")
        try:
            section[last] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {each}: not a YAML value: {error}", hint="put it in quotes") from error
    return options


# --- showing ----------------------------------------------------------------------------------------------------------


def _show(look: "DataLook", form: Format) -> None:
    if form is Format.JSON:
        say_json({"ok": not look.problems, **dataclasses.asdict(look)})
        return
    if form is Format.GITHUB:
        for problem in look.problems:
            message = f"{problem.message}\nhint: {problem.hint}".replace("%", "%25").replace("\n", "%0A")
            say(f"::error title=data::{message}")
        return
    for heading in look.headings:
        _show_heading(heading)
    for problem in look.problems:
        say(problem.message)
        say(f"  hint: {problem.hint}")
    count = len(look.problems)
    note(f"{count} problem{'' if count == 1 else 's'}" if count else "nothing is wrong")


def _show_heading(heading: "HeadingLook") -> None:
    counts = [f"{heading.records} records"]
    counts += [f"{heading.bad} bad"] if heading.bad else []
    counts += [f"{heading.left_out} left out by its options"] if heading.left_out else []
    say(f"{heading.heading}: {', '.join(heading.sources)}: {', '.join(counts)}")
    if heading.records:
        rows = [
            (each.name, f"{each.present} have it", f"{each.missing} do not", _held(each))
            for each in heading.columns
            if each.unit
        ]
        say_table(("column", "present", "missing", "what it holds"), rows)
        lines = [f"roles: {_counted(heading.roles)}"]
        metadata = {each.name.partition(".")[2]: each.present for each in heading.columns if not each.unit}
        lines += [f"metadata: {_counted(metadata)}"] if metadata else []
        lines += [f"tasks: {_counted(heading.tasks)}"] if heading.tasks else []
        for line in (*lines, *heading.notes):
            say(f"  {line}")
    say("")


def _held(column: "ColumnLook") -> str:
    if column.spread is None:
        return ""
    spread, digits = column.spread, 2 if column.unit == "seconds" else 0
    low, median, p95, high = (f"{each:.{digits}f}" for each in (spread.low, spread.median, spread.p95, spread.high))
    parts = [f"{low} to {high} {column.unit}, median {median}, 95 % up to {p95}, {_total(spread.total, column.unit)}"]
    parts += [", ".join(f"{count} at {rate} Hz" for rate, count in column.rates.items())] if column.rates else []
    names = {1: "mono", 2: "stereo"}
    parts += [", ".join(f"{count} {names.get(n, f'of {n} channels')}" for n, count in column.channels.items())]
    return "; ".join(part for part in parts if part)


def _total(total: float, unit: str) -> str:
    if unit != "seconds" or total < 600:
        return f"{total:.0f} in all"
    return f"{total / 3600:.2f} h in all"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
