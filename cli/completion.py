"""What the shell offers after TAB: recipes, plugins, keys of a recipe. Silent where anything goes wrong."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DEEPEST = 4
"""Sections a key lies in at most."""


def recipe_names(incomplete: str) -> list[str]:
    """Names of recipes that come along."""
    from .recipes import catalog  # `--help` shall not wait for it

    return sorted(name for name in catalog() if name.startswith(incomplete))


def recipes(incomplete: str) -> list[str]:
    """Names of recipes that come along, and files and folders that may lead to one."""
    return recipe_names(incomplete) + [path for path in _paths(incomplete) if path.endswith(("/", ".yaml", ".yml"))]


def recipes_or_data(incomplete: str) -> list[str]:
    """Names of recipes that come along, and every file and folder."""
    return recipe_names(incomplete) + list(_paths(incomplete))


def kinds(incomplete: str) -> list[str]:
    """Kinds of plugins."""
    from wavalign.plugins.catalog import KIND_NAMES  # `--help` shall not wait for it

    return [kind for kind in KIND_NAMES if kind.startswith(incomplete)]


def plugins(incomplete: str) -> list[str]:
    """Built-in plugins, by type and by kind and type."""
    from wavalign.plugins.catalog import CATALOG  # `--help` shall not wait for it

    names = dict.fromkeys(name for kind, type_ in CATALOG for name in (type_, f"{kind}.{type_}"))
    return sorted(name for name in names if name.startswith(incomplete))


def data_types(incomplete: str) -> list[str]:
    """Types of data sources."""
    from wavalign.plugins.catalog import CATALOG  # `--help` shall not wait for it

    return [type_ for kind, type_ in CATALOG if kind == "data" and type_.startswith(incomplete)]


def headings(incomplete: str) -> list[str]:
    """Headings of data."""
    return [name for name in ("prompts", "demonstrations", "evaluation") if name.startswith(incomplete)]


def settings(incomplete: str) -> list[str]:
    """Keys of a recipe, as `--set` takes them: `optim.learning_rate=`."""
    if "=" in incomplete:
        return []
    from wavalign.schema.export import recipe_schema  # brings pydantic, which no `--help` shall wait for

    schema = recipe_schema({})
    found = _keys(schema["properties"], schema["$defs"], "")
    # One level at a time: all keys at once are more than anybody reads.
    depth = incomplete.count(".")
    here = (key for key in found if key.startswith(incomplete) and key[:-1].count(".") == depth)
    return list(dict.fromkeys(here))


def _keys(properties: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """`a.b=` for what takes a value, `a.b.` for a section."""
    for name, field in properties.items():
        section = _section(field, definitions)
        if section is None or prefix.count(".") >= DEEPEST:
            yield f"{prefix}{name}="
        else:
            yield f"{prefix}{name}."
            yield from _keys(section, definitions, f"{prefix}{name}.")


def _section(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Properties of the one section a field holds, if it holds one."""
    choices = [field, *field.get("anyOf", ())]
    found = [definitions[each["$ref"].rpartition("/")[2]] for each in choices if "$ref" in each]
    sections = [each["properties"] for each in found if "properties" in each]
    return sections[0] if len(sections) == 1 else None


def _paths(incomplete: str) -> Iterator[str]:
    """Files and folders that begin so; folders end with `/`."""
    folder, _, start = incomplete.rpartition("/")
    base = Path(folder or ("/" if incomplete.startswith("/") else "."))
    try:
        found = sorted(base.iterdir())
    except OSError:
        return
    for path in found:
        if path.name.startswith(start) and (start.startswith(".") or not path.name.startswith(".")):
            lead = incomplete[: len(incomplete) - len(start)]
            yield f"{lead}{path.name}{'/' if path.is_dir() else ''}"
