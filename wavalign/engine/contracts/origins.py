"""Whose code an object is, and guards for blocks in which it runs among much else."""

import inspect
import sys
from collections.abc import Callable, Iterable

from wavalign.errors import PluginError
from wavalign.plugins.api import Plugin
from wavalign.plugins.guard import Guard, Origin, origin_of

ATTRIBUTE = "_wavalign_origin"
"""Where a guarded class keeps its origin."""


def origin(plugin: Plugin) -> Origin:
    """Whose object this is, also of one that was made without `construct`."""
    plain = origin_of(type(plugin), plugin.kind, str(getattr(plugin, "type", type(plugin).__name__)))
    found = getattr(plugin, ATTRIBUTE, plain)
    return found if isinstance(found, Origin) else plain


def written_at(plugin: Plugin, name: str) -> str:
    """File and line where a plugin's method begins."""
    function = inspect.unwrap(getattr(type(plugin), name))
    return f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"


def guarded_block(plugin: Plugin, moment: str) -> Guard:
    """A guard for a block that runs the plugin's objects among much else: blamed only where it was in its files."""
    return Guard(origin(plugin), moment, only=True)


def close_all(closers: Iterable[Callable[[], None]]) -> None:
    """Call every one, also after one has failed; then raise the first failure unless another error is on its way."""
    failed: list[PluginError] = []
    on_its_way = sys.exception() is not None
    for close in closers:
        try:
            close()
        except PluginError as error:
            failed.append(error)
    if failed and not on_its_way:
        raise failed[0]
