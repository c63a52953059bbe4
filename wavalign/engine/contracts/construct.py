"""Plugins as the engine uses them: every call guarded, arguments and results checked against the contract.

`construct` makes an object of a class of its own, under the plugin class: each method and property that the plugin's
kind names runs in a guard, and around some of them stands a check of what goes in and comes out (`AROUND`). What calls
the plugin knows nothing of it. Methods that are called per token (`Policy`, `DecodingState`) are left as they are: the
blocks around them are guarded (`origins.guarded_block`).
"""

import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from types import CodeType
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from wavalign.engine.contracts import data, model, objective, rollouts, steps
from wavalign.engine.contracts.origins import ATTRIBUTE
from wavalign.plugins.api import Plugin, Remembers
from wavalign.plugins.guard import Broken, Guard, Origin
from wavalign.schema.base import Params

P = TypeVar("P", bound=Plugin)
CONSTRUCTOR = "constructor"
AROUND: Mapping[tuple[str, str], Callable[..., Any]] = {
    **model.AROUND,
    **data.AROUND,
    **objective.AROUND,
    **rollouts.AROUND,
    **steps.AROUND,
}
"""By kind and name: called with the object, the plugin's own (for a property without arguments) and the arguments."""
MADE: Mapping[str, Callable[[Any], None]] = {**model.MADE, **objective.MADE, **rollouts.MADE}
"""By kind: looks at a new object."""
LEFT_ALONE = {("reward", "score"), ("reward", "score_batch")}
"""What guards itself: a reward that raises is a missing value with a reason, on its own thread."""
PASSES: Mapping[tuple[str, str], tuple[type[BaseException], ...]] = {
    ("architecture", "save_layout"): (OSError,),
    ("codec", "fit"): (OSError,),
}
"""What write into a folder of the engine's: a disk that refuses is no fault of theirs, and the engine says so."""
_END = object()


def construct(
    base: type[P], plugin: type[Plugin], origin: Origin, params: Mapping[str, Any], runtime: Mapping[str, object]
) -> P:
    """An object of `plugin`, which is a `base`, with the runtime objects its kind names; PluginError where it fails."""
    made = guarded(plugin, base, origin)
    with Guard(origin, "options", passes=(ValidationError,)):
        options = plugin.Params.model_validate(dict(params))
    with Guard(origin, CONSTRUCTOR, code=_code(vars(plugin).get("__init__"))):
        found = cast("Callable[..., object]", made)(options, **runtime)
        if not isinstance(found, base):
            raise Broken(f"gave a {type(found).__name__}, which is no {base.__name__}")
        if base.kind in MADE:
            MADE[base.kind](found)
    return found


def guarded(plugin: type[Plugin], base: type[P], origin: Origin) -> type[P]:
    """A class under `plugin` whose contract runs in guards; `plugin` itself where it has been guarded already."""
    body: dict[str, object] = {ATTRIBUTE: origin, "__doc__": plugin.__doc__}
    body |= {"__module__": plugin.__module__, "__qualname__": plugin.__qualname__}
    for name in _contract(base):
        found = inspect.getattr_static(plugin, name, None)
        if (base.kind, name) in LEFT_ALONE or getattr(found, "__isabstractmethod__", False):
            continue
        wrapped = _wrapped(found, name, origin, AROUND.get((base.kind, name)))
        if wrapped is not None:
            body[name] = wrapped
    with Guard(origin, "class"):  # a metaclass or __init_subclass__ of the plugin's own
        made = types.new_class(plugin.__name__, (plugin,), exec_body=lambda space: space.update(body))
    return cast("type[P]", made)


def _contract(base: type[Plugin]) -> list[str]:
    """Names that a kind's contract speaks of."""
    memory = vars(Remembers) if issubclass(base, Remembers) else {}
    names = dict.fromkeys([*vars(base), *vars(base).get("__annotations__", {}), *memory])
    public = [name for name in names if not name.startswith("_") and name not in ("kind", "Params")]
    return [*public, *(["__len__"] if "__len__" in names else [])]


def _wrapped(found: object, name: str, origin: Origin, around: Callable[..., Any] | None) -> object:
    """A method or property in its guard; None for what runs nothing, such as a class attribute."""
    if inspect.isfunction(found):
        return _method(found, name, origin, around)
    if isinstance(found, staticmethod):
        plain = found.__func__
        return _method(lambda _self, *given, **named: plain(*given, **named), name, origin, around)
    if isinstance(found, classmethod):
        return classmethod(_method(found.__func__, name, origin, around))
    if isinstance(found, Params) or inspect.isclass(found) or not hasattr(type(found), "__get__"):
        return None
    return _property(found, name, origin, around)


def _method(
    function: Callable[..., Any], name: str, origin: Origin, around: Callable[..., Any] | None
) -> Callable[..., Any]:
    code = _code(function)

    @functools.wraps(function)
    def call(self: object, *given: Any, **named: Any) -> Any:
        moment = f"{name.strip('_')}({given[0]})" if given and type(given[0]) is int else name.strip("_")
        with Guard(origin, moment, code=code, passes=PASSES.get((origin.kind, name), ())):
            own = functools.partial(function, self)
            found = own(*given, **named) if around is None else around(self, own, *given, **named)
        return _iterated(found, moment, origin, code) if isinstance(found, Iterator) else found

    return call


def _property(found: Any, name: str, origin: Origin, around: Callable[..., Any] | None) -> property:
    code = _code(getattr(found, "fget", None) or getattr(found, "func", None))

    def value(self: object) -> Any:
        with Guard(origin, name, code=code):
            own = functools.partial(found.__get__, self, type(self))
            return own() if around is None else around(self, own)

    return property(value, getattr(found, "fset", None))


def _iterated(found: Iterator[Any], moment: str, origin: Origin, code: CodeType | None) -> Iterator[Any]:
    """Its items, each fetched in a guard."""
    try:
        while True:
            with Guard(origin, moment, code=code):
                item = next(found, _END)
            if item is _END:
                return
            yield item
    finally:
        if inspect.isgenerator(found):
            with Guard(origin, moment, code=code):
                found.close()


def _code(function: object) -> CodeType | None:
    return function.__code__ if inspect.isfunction(function) else None
