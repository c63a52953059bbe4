"""Relative paths of a recipe, made absolute: they count from the file that wrote them."""

import os
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from wavalign.errors import Where
from wavalign.schema.base import Tree
from wavalign.schema.composer import Path
from wavalign.schema.environment import secret_name
from wavalign.schema.marks import SET, Source
from wavalign.schema.shapes import Option, is_path, leaves


def anchor(model: type[BaseModel], tree: Tree, source: Source, prefix: Path = ()) -> Tree:
    """A copy of `tree` (what `model` will be made of) with every RecipePath in it absolute.

    `prefix` is where `tree` stands in the recipe. URLs (`s3://...`), absolute paths and `${env:NAME}` stay; `~` is the
    home folder; what `--set` gives counts from the working directory.
    """
    absolute = {
        path: _absolute(value, source.where((*prefix, *path)))
        for path, value, accepted in leaves((Option(model),), tree, ())
        if isinstance(value, str) and is_path(accepted)
    }
    anchored = _rewritten(tree, (), absolute)
    assert isinstance(anchored, dict)
    return anchored


def _rewritten(value: Any, path: Path, absolute: Mapping[Path, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _rewritten(item, (*path, key), absolute) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rewritten(item, (*path, index), absolute) for index, item in enumerate(value)]
    return absolute.get(path, value)


def _absolute(value: str, where: Where) -> str:
    if not value or "://" in value or secret_name(value) is not None:
        return value
    folder = "" if where.file == SET else os.path.dirname(where.file)
    return os.path.normpath(os.path.join(os.getcwd(), folder, os.path.expanduser(value)))
