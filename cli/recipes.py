"""`wavalign recipes`: the recipes that come along."""

import difflib
import shutil
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wavalign.errors import UsageError

from . import completion
from .console import note, say, say_table

if TYPE_CHECKING:
    from wavalign.schema.source import Source

app = typer.Typer(no_args_is_help=True, help="List, show and copy the recipes that come along.")

NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A name that `wavalign recipes list` prints.",
        autocompletion=completion.recipe_names,
    ),
]


@app.command("list")
def list_() -> None:
    """List the recipes that come along, with what each is for."""
    from wavalign.schema.source import read_source  # `--help` shall not wait for it

    rows = [
        (name, _sentence(str(read_source(str(path)).tree.get("description", "")))) for name, path in catalog().items()
    ]
    say_table(("name", "what it is for"), rows)


@app.command("show")
def show(name: NameArgument) -> None:
    """Print a recipe as it is written."""
    say(shipped(name).read_text(encoding="utf-8").rstrip())


@app.command("copy")
def copy(
    name: NameArgument,
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Where to; made when missing.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
) -> None:
    """Copy a recipe, with the files it extends and names, to edit them."""
    from wavalign.schema.source import read_source  # `--help` shall not wait for it

    root = home()
    source = read_source(str(shipped(name)))
    sources = [Path(file).relative_to(root) for file in (*source.files, *_named_files(source))]
    there = [folder / part for part in sources if (folder / part).exists()]
    if there and not force:
        raise UsageError(f"{', '.join(map(str, there))} exists already", hint="name another folder, or add --force")
    for part in sources:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / part, folder / part)
        note(f"wrote {folder / part}")
    note(f"next: wavalign run {folder / sources[0]}")


def _named_files(source: "Source") -> list[str]:
    """Files among the recipes that its values name, such as a tokenizer or a folder of weights.

    A relative path counts from the file that says it. Only a path with a `/` can be a folder: a bare word may be text.
    """
    found: dict[str, None] = {}
    for path, where in source.marks.items():
        value: object = source.tree
        for step in path:
            value = value[step]  # type: ignore[index]  # marks are the tree's own paths
        if not isinstance(value, str) or not value or "\n" in value:
            continue
        named = (Path(where.file).parent / value).resolve()
        if named.is_relative_to(home()) and named.is_file():
            found[str(named)] = None
        elif named.is_relative_to(home()) and named.is_dir() and "/" in value:
            found.update({str(file): None for file in sorted(named.rglob("*")) if file.is_file()})
    return [file for file in found if file not in source.files]


def home() -> Path:
    """The folder the recipes are installed in."""
    return Path(str(files("wavalign_recipes"))).resolve()


def catalog() -> dict[str, Path]:
    """Name -> file of every recipe that comes along."""
    root = home()
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.rglob("*.yaml"))}


def shipped(name: str) -> Path:
    """The file of a recipe that comes along; UsageError with the nearest name when there is none."""
    path = home() / f"{name}.yaml"
    if path.is_file() and path.resolve().is_relative_to(home()):
        return path
    known = list(catalog())
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"give a file, or one of: {', '.join(known)}"
    raise UsageError(f"there is no recipe '{name}'", hint=hint)


def _sentence(text: str) -> str:
    """The first sentence of a description, on one line."""
    return " ".join(text.split()).partition(". ")[0].rstrip(".")
