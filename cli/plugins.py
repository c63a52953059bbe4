"""`wavalign plugins`: what a recipe may name."""

import ast
import inspect
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wavalign.errors import PluginError, UsageError

from . import completion, doctor
from .console import say, say_table, status

if TYPE_CHECKING:
    from wavalign.plugins.api import Plugin
    from wavalign.plugins.registry import Registry

app = typer.Typer(no_args_is_help=True, help="List and explain the plugins a recipe may name.")

FileOption = Annotated[
    list[str] | None, typer.Option("--file", metavar="FILE", help="Also the plugins of this Python file. Repeatable.")
]


KindArgument = Annotated[
    str | None,
    typer.Argument(metavar="[KIND]", help="Only this kind, e.g. loss.", autocompletion=completion.kinds),
]


@app.command("list")
def list_(kind: KindArgument = None, file: FileOption = None) -> None:
    """List plugins by kind: built-in, installed, and those of --file.

    What is built in is read, not imported; `wavalign plugins check` says what can be used here.
    """
    from importlib.metadata import entry_points  # `--help` shall not wait for it

    from wavalign.plugins.catalog import CATALOG, ENTRY_POINT_GROUP  # nor for this

    kinds = _kinds(kind)
    rows = {key: _first_paragraph(_written(address)) for key, address in CATALOG.items() if key[0] in kinds}
    if file or entry_points(group=ENTRY_POINT_GROUP):  # others' plugins: only importing them shows what they are
        registry = registry_of(file)
        theirs = [(each, type_) for each in kinds for type_ in registry.types(each) if (each, type_) not in CATALOG]
        rows |= {key: _summary(registry, *key) for key in theirs}
    ordered = sorted(rows, key=lambda key: (kinds.index(key[0]), key[1]))
    say_table(("kind", "type", "what it does"), [(*key, rows[key]) for key in ordered])


@app.command("check")
def check(kind: KindArgument = None, file: FileOption = None) -> None:
    """Import every plugin and hold it against its contract: what can be used here, and why not the rest.

    Exit code 0 when all can be used, 4 when one cannot, mostly for want of an extra.
    """
    kinds = _kinds(kind)
    with status("importing plugins"):
        registry = registry_of(file)
        rows = [(each, type_, _fault(registry, each, type_)) for each in kinds for type_ in registry.types(each)]
    say_table(("kind", "type", "can be used"), [(kind, type_, fault or "yes") for kind, type_, fault in rows])
    broken = [f"{kind}.{type_}" for kind, type_, fault in rows if fault]
    if broken:
        raise PluginError(
            f"{len(broken)} of {len(rows)} plugins cannot be used here: {', '.join(broken)}",
            hint="only recipes that name them need them; `wavalign doctor` says which extra brings what",
        )


@app.command("show")
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A type, e.g. grpo, or kind.type where two kinds share it.",
            autocompletion=completion.plugins,
        ),
    ],
    file: FileOption = None,
) -> None:
    """Explain a plugin: what it does, its formula and source, and every option with its default."""
    from wavalign.plugins.registry import facts  # brings torch, which no `--help` shall wait for

    from .params import option_rows  # brings pydantic, which no `--help` shall wait for

    with status(f"importing {name}"):
        registry = registry_of(file)
        kind, type_ = _resolved(registry, name)
        plugin = registry.get(kind, type_)
    say(f"{kind} {type_}\n\n{_documentation(plugin)}\n")
    for fact, said in facts(plugin).items():
        say(f"{fact}: {said}")
    say("")
    rows = option_rows(plugin.Params)
    if not rows:
        say("It has no options.")
        return
    say("Options, written beside `type`:")
    for row in rows:
        default = "required" if row.default is None else f"default {row.default}"
        say(f"\n  {row.name}: {row.type}  ({default})")
        say("\n".join(f"      {line}" for line in row.text.splitlines()))


def registry_of(files: list[str] | None) -> "Registry":
    """Built-in and installed plugins, and those of `files`."""
    from wavalign.plugins.registry import Registry  # brings torch, which no `--help` shall wait for

    return Registry(files or ())


def _resolved(registry: "Registry", name: str) -> tuple[str, str]:
    """Kind and type of `name`; UsageError when none or several are meant."""
    from wavalign.plugins.registry import KINDS  # brings torch, which no `--help` shall wait for

    kind, dot, type_ = name.partition(".")
    if dot and kind in KINDS:
        if type_ not in registry.types(kind):
            raise UsageError(f"there is no {kind} named '{type_}'", hint=registry.suggestion(kind, type_))
        return kind, type_
    found = [each for each in KINDS if name in registry.types(each)]
    if len(found) > 1:
        raise UsageError(
            f"'{name}' is the name of several", hint=f"say which: {', '.join(f'{k}.{name}' for k in found)}"
        )
    if not found:
        raise UsageError(f"there is no plugin named '{name}'", hint="`wavalign plugins list` prints all")
    return found[0], name


def _kinds(kind: str | None) -> list[str]:
    """All kinds, or the one that was asked for; raises UsageError."""
    from wavalign.plugins.catalog import KIND_NAMES  # `--help` shall not wait for it

    if kind is not None and kind not in KIND_NAMES:
        raise UsageError(f"there is no kind '{kind}'", hint=f"kinds: {', '.join(KIND_NAMES)}")
    return [kind] if kind is not None else list(KIND_NAMES)


def _summary(registry: "Registry", kind: str, type_: str) -> str:
    """First paragraph of the plugin's file on one line, or why it cannot be loaded: a list shows what is broken too."""
    try:
        return _first_paragraph(_documentation(registry.get(kind, type_)))
    except PluginError as error:
        return f"cannot be loaded: {error.message}"


def _fault(registry: "Registry", kind: str, type_: str) -> str:
    """Why a plugin cannot be used; empty where it can."""
    try:
        registry.get(kind, type_)
    except PluginError as error:
        return error.message
    extra = doctor.LATER.get((kind, type_))
    missing = [] if extra is None else [name for name in doctor.EXTRAS[extra] if find_spec(name) is None]
    return f'{", ".join(missing)} is not installed: pip install "wavalign[{extra}]"' if missing else ""


def _first_paragraph(text: str) -> str:
    return " ".join(text.partition("\n\n")[0].split())


def _written(address: str) -> str:
    """Docstring of a built-in plugin's file, which is not imported: it may bring torch."""
    spec = find_spec(address.partition(":")[0])
    assert spec is not None and spec.origin is not None, address
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""


def _documentation(plugin: "type[Plugin]") -> str:
    """Docstring of the plugin's file: what it does, formula, source."""
    return inspect.cleandoc(sys.modules[plugin.__module__].__doc__ or plugin.__doc__ or "It says nothing about itself.")
