"""Find plugins: the built-in catalogue, entry points of installed packages, and the files a recipe names.

Nothing is skipped: an import failure, a duplicate name or a broken contract is a PluginError.
"""

import contextlib
import difflib
import importlib
import inspect
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import ClassVar, final, get_origin

from wavalign.errors import PluginError
from wavalign.plugins import api
from wavalign.plugins.catalog import CATALOG, ENTRY_POINT_GROUP
from wavalign.plugins.files import load_file
from wavalign.plugins.guard import IMPORT, OURS, Guard, Origin, fault
from wavalign.schema.base import Params

KINDS: dict[str, type[api.Plugin]] = {
    base.kind: base
    for base in (
        api.Architecture,
        api.Codec,
        api.Nar,
        api.DataSource,
        api.Reward,
        api.Mask,
        api.Advantage,
        api.Gate,
        api.Loss,
        api.Sampler,
        api.Provider,
        api.Metric,
        api.Tracker,
    )
}


DECLARED = ("needs", "range", "family", "unit")
"""Of a class, what is worth showing."""
WORDS: dict[str, dict[str, frozenset[str]]] = {
    "reward": {"needs": api.SHOWN},
    "metric": {"needs": frozenset({"text", "waveform", "states", "start"})},
    "advantage": {"unit": frozenset({"answer", "token"})},
    "loss": {"unit": frozenset({"token", "sequence", "group"})},
}
"""By kind and name, the words that a class attribute may hold."""


@final
class Registry:
    """Every plugin that can be named, each imported only when asked for."""

    def __init__(self, files: Iterable[str] = ()) -> None:
        """Collect the catalogue, the entry points (`kind.type = module:Class`) and the classes of `files`."""
        self._addresses: dict[tuple[str, str], str] = dict(CATALOG)
        self._classes: dict[tuple[str, str], type[api.Plugin]] = {}
        for entry in entry_points(group=ENTRY_POINT_GROUP):
            self._add_entry_point(entry.name, entry.value)
        for file in files:
            self._add_file(Path(file))

    def types(self, kind: str) -> list[str]:
        """Names of a kind, sorted."""
        known = {*self._addresses, *self._classes}
        return sorted(name for each, name in known if each == kind)

    def get(self, kind: str, type_: str) -> type[api.Plugin]:
        """The class of (`kind`, `type_`); PluginError when there is none or it breaks its contract."""
        key = (kind, type_)
        if key not in self._classes:
            if key not in self._addresses:
                raise PluginError(f"no {kind} named '{type_}'", hint=self.suggestion(kind, type_))
            self._classes[key] = checked(kind, type_, _import(key, self._addresses[key]))
        return self._classes[key]

    def suggestion(self, kind: str, type_: str) -> str:
        """The kind that a name belongs to, the nearest name of the same kind, or all names."""
        elsewhere = [other for other in KINDS if type_ in self.types(other)]
        if elsewhere:
            return f"'{type_}' is a {elsewhere[0]}, not a {kind}; a {kind} is one of: {', '.join(self.types(kind))}"
        near = difflib.get_close_matches(type_, self.types(kind), n=1, cutoff=0.5)
        if near:
            return f"did you mean '{near[0]}'?"
        return f"known: {', '.join(self.types(kind)) or 'none'}"

    def _claim(self, key: tuple[str, str], origin: str) -> None:
        if key in self._addresses or key in self._classes:
            raise PluginError(
                f"{origin} registers {key[0]} '{key[1]}', which exists already",
                hint="give it another name; a plugin never replaces another silently",
            )

    def _add_entry_point(self, name: str, address: str) -> None:
        kind, _, type_ = name.partition(".")
        if kind not in KINDS or not type_:
            raise PluginError(
                f"entry point '{name}' of group {ENTRY_POINT_GROUP} is not of the form kind.type",
                hint=f"kinds: {', '.join(KINDS)}",
            )
        self._claim((kind, type_), f"entry point '{name}' ({address})")
        self._addresses[kind, type_] = address

    def _add_file(self, path: Path) -> None:
        module = load_file(path)
        found = dict.fromkeys(  # a class may have a second name
            value
            for value in vars(module).values()
            if inspect.isclass(value) and issubclass(value, api.Plugin) and value.__module__ == module.__name__
        )
        if not found:
            raise PluginError(f"{path} defines no plugin", hint=f"subclass one of: {', '.join(KINDS)}")
        for value in found:
            type_ = vars(value).get("type")
            if not isinstance(type_, str):
                raise PluginError(
                    f"{path}: class {value.__name__} has no `type`", hint='add a class attribute, e.g. type = "my_loss"'
                )
            kind = next((name for name, base in KINDS.items() if issubclass(value, base)), None)
            if kind is None:
                message = f"{path}: class {value.__name__} is of no kind"
                raise PluginError(message, hint=f"subclass one of: {', '.join(KINDS)}")
            self._claim((kind, type_), str(path))
            self._classes[kind, type_] = checked(kind, type_, value)


def checked(kind: str, type_: str, value: object) -> type[api.Plugin]:
    """Hold a class against its kind's contract."""
    base = KINDS[kind]
    if not (inspect.isclass(value) and issubclass(value, base)):
        raise PluginError(f"{kind} '{type_}' is not a subclass of wavalign.plugins.api.{base.__name__}")
    unset = [name for name in base.__annotations__ if _is_of_class(base, name) and not hasattr(value, name)]
    missing = sorted({*getattr(value, "__abstractmethods__", ()), *unset})
    if missing:
        raise PluginError(f"{kind} '{type_}' ({value.__name__}) does not define: {', '.join(missing)}")
    if not (inspect.isclass(value.Params) and issubclass(value.Params, Params)):
        raise PluginError(f"{kind} '{type_}': Params must be a subclass of wavalign.schema.base.Params")
    _check_words(kind, type_, value)
    if kind == "loss" and not isinstance(inspect.getattr_static(value, "family"), str | property):
        said = inspect.getattr_static(value, "family")
        hint = "the name of the rows it is made for: rollouts, demonstrations, or a family of a recipe's own"
        raise PluginError(f"{kind} '{type_}' ({value.__name__}) declares `family` as {said!r}", hint=hint)
    return value


def facts(plugin: type[api.Plugin]) -> dict[str, str]:
    """What a class says of itself, in words, for people: where it stands, and what its kind lets it declare."""
    lines = {"from": plugin.__module__}
    with contextlib.suppress(OSError, TypeError):  # made without a file
        lines["from"] = f"{inspect.getsourcefile(plugin)}:{inspect.getsourcelines(plugin)[1]}"
    for name in DECLARED:
        said = inspect.getattr_static(plugin, name, None)
        if isinstance(said, str):
            lines[name] = said
        elif isinstance(said, frozenset | set):
            lines[name] = ", ".join(sorted(said)) or "nothing"
        elif isinstance(said, tuple) and len(said) == 2:
            lines[name] = f"{said[0]} to {said[1]}"
    return lines


def _check_words(kind: str, type_: str, value: type[api.Plugin]) -> None:
    """What a class declares of itself is one of the words its kind knows; what its objects set is looked at there."""
    for name, known in WORDS.get(kind, {}).items():
        said = inspect.getattr_static(value, name)
        if isinstance(said, property):
            continue
        given = {said} if isinstance(said, str) and name != "needs" else said
        if not isinstance(given, frozenset | set | tuple | list) or not set(map(str, given)) <= known:
            raise PluginError(
                f"{kind} '{type_}' ({value.__name__}) declares `{name}` as {said!r}",
                hint=f"`{name}` knows {', '.join(sorted(known))}" + ("; it is a frozenset" if name == "needs" else ""),
            )


def _is_of_class(base: type, name: str) -> bool:
    """Whether the contract wants `name` on the class, not on its objects."""
    origin: object = get_origin(base.__annotations__[name])
    return origin is ClassVar


def _import(key: tuple[str, str], address: str) -> object:
    module, _, name = address.partition(":")
    own = module.partition(".")[0] == OURS
    origin = Origin(*key, file="", name=address, own=own)
    try:
        with Guard(origin, IMPORT, passes=(ImportError,)):
            found = vars(importlib.import_module(module))
    except ImportError as error:
        hint = "`pip install wavalign[speech]` brings what the spoken world needs; `wavalign doctor` checks it"
        failed = fault(origin, IMPORT, error)
        raise PluginError(failed.message, hint=hint if own else "", placed=True) from error
    if name not in found:
        raise PluginError(f"{key[0]} '{key[1]}': module {module} has no {name}")
    return found[name]
