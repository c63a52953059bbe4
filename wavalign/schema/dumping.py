"""A recipe back to YAML: complete, in the order of the fields, secrets as placeholders."""

import re
from collections.abc import Mapping
from typing import Any, final

import yaml
from pydantic import BaseModel

from wavalign.schema.base import Tree
from wavalign.schema.component import Component
from wavalign.schema.composer import BOOL, FLOAT, INT, NON_FINITE, NULL
from wavalign.schema.environment import redact

_OLD_BREAK = re.compile("[\x85\u2028\u2029]")


def recipe_tree(model: BaseModel) -> Tree:
    """The plain tree a recipe (or a part of it) would be read from; a component's options stand beside its `type`."""
    tree: Tree = {}
    for name, item in model:
        value = _plain(item)
        if name == "params" and isinstance(model, Component):
            tree.update(value)
        else:
            tree[name] = value
    return tree


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return recipe_tree(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return sorted(_plain(item) for item in value) if isinstance(value, frozenset | set) else value


def dump_yaml(tree: Tree) -> str:
    """YAML that `read_source` reads back equal, keys in the order of `tree`; secrets are redacted."""
    text = yaml.dump(
        redact(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, default_flow_style=False
    )
    assert isinstance(text, str)
    return text


@final
class _Dumper(yaml.SafeDumper):
    """Quotes a text that either version of YAML would take for something else, and repeats instead of aliasing."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never alias."""
        del data
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """A text over several lines as a block, any other as it comes; breaks that only YAML 1.1 knows as escapes."""
    if _OLD_BREAK.search(text):
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
    lines = text.split("\n")
    block = len(lines) > 1 and all(line == line.rstrip() for line in lines) and not text.startswith((" ", "\n"))
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if block else None)


_Dumper.add_representer(str, _text)
for _kind, _pattern in (("null", NULL), ("bool", BOOL), ("int", INT), ("float", FLOAT), ("float", NON_FINITE)):
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(_pattern.pattern), None)
