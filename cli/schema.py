"""`wavalign schema`: what a recipe may say, for editors."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wavalign.errors import PluginError, StorageError

from .console import note, say_json
from .plugins import FileOption, registry_of

if TYPE_CHECKING:
    from wavalign.plugins.registry import Registry
    from wavalign.schema.base import Params

CUSTOM_TAGS = ("!replace mapping", "!replace sequence", "!replace scalar")
"""As editors' YAML parsers want tags declared that are not YAML's own."""

OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it here instead of printing it.")
]


def schema(output: OutputOption = None, file: FileOption = None) -> None:
    """Print the JSON Schema of recipes, for completion in an editor."""
    from wavalign.plugins.registry import KINDS  # brings torch, which no `--help` shall wait for
    from wavalign.schema.export import recipe_schema

    registry = registry_of(file)
    made = recipe_schema({kind: _params(registry, kind) for kind in KINDS})
    if output is None:
        say_json(made)
        return
    try:
        output.write_text(json.dumps(made, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{output} cannot be written: {error.strerror}", hint="name another file") from error
    note(f"wrote {output}; in an editor with the YAML language server, begin a recipe with")
    note(f"  # yaml-language-server: $schema={output}")
    note("and tell it the tag that replaces a section instead of merging (in VS Code's settings.json):")
    note(f'  "yaml.customTags": {json.dumps(CUSTOM_TAGS)}')


def _params(registry: "Registry", kind: str) -> "dict[str, type[Params]]":
    """Params by type; what cannot be loaded here, mostly for want of an extra, is named and left out."""
    found = {}
    for type_ in registry.types(kind):
        try:
            found[type_] = registry.get(kind, type_).Params
        except PluginError as error:
            note(f"left out: {error.message}")
    return found
