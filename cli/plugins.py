"""`wavalign plugins`: what a recipe may name."""

import inspect
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from wavalign.errors import PluginError, UsageError

from .console import say, say_table

if TYPE_CHECKING:
    from wavalign.plugins.api import Plugin
    from wavalign.plugins.registry import Registry

app = typer.Typer(no_args_is_help=True, help="List and explain the plugins a recipe may name.")

FileOption = Annotated[
    list[str] | None, typer.Option("--file", metavar="FILE", help="Also the plugins of this Python file. Repeatable.")
]


@app.command("list")
def list_(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", help="Only this kind, e.g. loss.")] = None,
    file: FileOption = None,
) -> None:
    """List plugins by kind: built-in, installed, and those of --file."""
    from wavalign.plugins.registry import KINDS  # brings torch, which no `--help` shall wait for

    if kind is not None and kind not in KINDS:
        raise UsageError(f"there is no kind '{kind}'", hint=f"kinds: {', '.join(KINDS)}")
    registry = registry_of(file)
    kinds = [kind] if kind is not None else list(KINDS)
    rows = [(each, type_, _summary(registry, each, type_)) for each in kinds for type_ in registry.types(each)]
    say_table(("kind", "type", "what it does"), rows)


@app.command("show")
def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A type, e.g. grpo, or kind.type where two kinds share it.")
    ],
    file: FileOption = None,
) -> None:
    """Explain a plugin: what it does, its formula and source, and every option with its default."""
    from .params import option_rows  # brings pydantic, which no `--help` shall wait for

    registry = registry_of(file)
    kind, type_ = _resolved(registry, name)
    plugin = registry.get(kind, type_)
    say(f"{kind} {type_}\n\n{_documentation(plugin)}\n")
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


def _summary(registry: "Registry", kind: str, type_: str) -> str:
    """First paragraph of the plugin's file on one line, or why it cannot be loaded: a list shows what is broken too."""
    try:
        text = _documentation(registry.get(kind, type_))
    except PluginError as error:
        return f"cannot be loaded: {error.message}"
    return " ".join(text.partition("\n\n")[0].split())


def _documentation(plugin: "type[Plugin]") -> str:
    """Docstring of the plugin's file: what it does, formula, source."""
    return inspect.cleandoc(sys.modules[plugin.__module__].__doc__ or plugin.__doc__ or "It says nothing about itself.")
