"""What a field accepts, read off its annotation: for anchoring paths, for strictness, and for saying it in words."""

import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, Union, final, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from wavalign.schema.base import PathMark
from wavalign.schema.composer import Path

_SEQUENCES = (tuple, list, set, frozenset, Sequence, AbstractSet, Iterable)
_MAPPINGS = (dict, Mapping)
_NUMBERS = {int: "a whole number (e.g. 8)", float: "a number (e.g. 0.5)"}


@final
@dataclass(frozen=True, slots=True)
class Option:
    """One member of the union a field is, without Annotated around it."""

    kind: Any
    metadata: tuple[Any, ...] = ()

    @property
    def model(self) -> type[BaseModel] | None:
        """The section it is, if it is one."""
        return self.kind if isinstance(self.kind, type) and issubclass(self.kind, BaseModel) else None

    @property
    def is_mapping(self) -> bool:
        """Whether it is a mapping with free keys."""
        return (get_origin(self.kind) or self.kind) in _MAPPINGS

    @property
    def is_sequence(self) -> bool:
        """Whether it is a list of some kind."""
        return (get_origin(self.kind) or self.kind) in _SEQUENCES

    @property
    def literals(self) -> tuple[Any, ...]:
        """The values a Literal or Enum allows."""
        if get_origin(self.kind) is Literal:
            return get_args(self.kind)
        if isinstance(self.kind, type) and issubclass(self.kind, Enum):
            return tuple(member.value for member in self.kind)
        return ()


Options = tuple[Option, ...]


def options(annotation: Any, metadata: tuple[Any, ...] = ()) -> Options:
    """Flatten unions and Annotated."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *extra = get_args(annotation)
        return options(inner, (*metadata, *_unpacked(extra)))
    if origin in (Union, types.UnionType):
        return tuple(option for member in get_args(annotation) for option in options(member, metadata))
    return (Option(annotation, metadata),)


def _unpacked(extra: Iterable[Any]) -> Iterator[Any]:
    for item in extra:
        if isinstance(item, FieldInfo):
            yield from item.metadata
        else:
            yield item


def field_options(model: type[BaseModel], name: str) -> Options:
    """What field `name` of `model` accepts."""
    info = model.model_fields[name]
    return options(info.annotation, tuple(info.metadata))


def field_of(model: type[BaseModel], key: str) -> str | None:
    """Name of the field that `key` in a file fills, None for an unknown key."""
    if key in model.model_fields:
        return key
    return next((name for name, info in model.model_fields.items() if key in (info.alias, info.validation_alias)), None)


def inside(accepted: Options, value: Any, part: str | int) -> Options:
    """What stands at `part` of `value`, where `accepted` stands at `value` itself."""
    found: list[Option] = []
    for option in accepted:
        if option.model is not None and isinstance(part, str):
            name = field_of(option.model, part)
            found += field_options(option.model, name) if name is not None else ()
        elif option.is_mapping and isinstance(part, str):
            found += options(get_args(option.kind)[1]) if len(get_args(option.kind)) == 2 else ()
        elif option.is_sequence:
            found += _entry(option, value, part)
    return tuple(found)


def _entry(option: Option, value: Any, part: str | int) -> Options:
    """Options of one entry of a list; where one entry may stand without the list around it, of its keys."""
    arguments = [item for item in get_args(option.kind) if item is not Ellipsis]
    if not arguments:
        return ()
    index = part if isinstance(part, int) and len(arguments) > 1 else 0
    entry = options(arguments[index]) if 0 <= index < len(arguments) else ()
    return entry if isinstance(part, int) else inside(entry, value, part)


def leaves(accepted: Options, value: Any, path: Path) -> Iterator[tuple[Path, Any, Options]]:
    """All single values below `value` whose place the annotations know, with what is accepted there."""
    if isinstance(value, Mapping):
        accepted = _meant(accepted, value)
        for key, item in value.items():
            yield from leaves(inside(accepted, value, key), item, (*path, key))
    elif isinstance(value, list | tuple):
        if not any(option.is_sequence for option in accepted):
            mapped = [option for option in accepted if option.is_mapping]  # a mapping whose only entry stands alone
            accepted = tuple(member for option in mapped for member in inside((option,), {}, ""))
        for index, item in enumerate(value):
            yield from leaves(inside(accepted, value, index), item, (*path, index))
    elif accepted:
        yield path, value, accepted


def _meant(accepted: Options, value: Mapping[Any, Any]) -> Options:
    """Of a union the plugins alone where `value` names a `type`: what stands beside it is the plugin's own."""
    plugins = [each for each in accepted if each.model is not None and {"type", "params"} <= {*each.model.model_fields}]
    return tuple(plugins) if plugins and "type" in value else accepted


def is_path(accepted: Options) -> bool:
    """Whether a text here is a path relative to the file it stands in."""
    return any(isinstance(mark, PathMark) for option in accepted for mark in option.metadata)


def must_exist(accepted: Options) -> bool:
    """Whether a text here is a path of something that a run reads."""
    return any(isinstance(mark, PathMark) and not mark.made for option in accepted for mark in option.metadata)


def fits(accepted: Options, value: Any) -> bool:
    """Whether a single value is of an accepted type as it is, without the conversions pydantic would do silently.

    A whole number may stand where a number is wanted and `1e3` where a whole number is; `"8"`, `true` and `yes` stand
    for themselves only.
    """
    accepted = tuple(option for option in accepted if option.kind is not type(None))
    if value is None or not accepted:
        return True
    for option in accepted:
        kind = option.kind
        if kind is bool or kind in _NUMBERS or kind is str:
            if _fits_plain(kind, value):
                return True
        elif option.literals:
            if any(type(value) is type(allowed) and value == allowed for allowed in option.literals):
                return True
        elif not (option.model or option.is_mapping or option.is_sequence):
            return True
    return all(option.model or option.is_mapping or option.is_sequence for option in accepted)


def _fits_plain(kind: Any, value: Any) -> bool:
    if kind is int:
        return type(value) is int or (type(value) is float and value.is_integer())
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind


def describe(accepted: Options) -> str:
    """The expected value in words with an example, such as `a whole number (e.g. 8)`."""
    words: list[str] = []
    for option in accepted:
        word = _word(option)
        if word and word not in words:
            words.append(word)
    return " or ".join(words)


def _word(option: Option) -> str:
    kind = option.kind
    if kind in _NUMBERS:
        return _NUMBERS[kind]
    if kind is bool:
        return "`true` or `false`"
    if kind is str:
        return "a path" if is_path((option,)) else "a text"
    if option.literals:
        return one_of(option.literals)
    if option.model is not None:
        if "type" in option.model.model_fields and "params" in option.model.model_fields:
            return "a plugin (e.g. `{type: name}`)"
        return "a mapping with " + listed(list(option.model.model_fields)[:4])
    if option.is_mapping:
        return "a mapping (e.g. `{key: value}`)"
    if option.is_sequence:
        return _list_word(option)
    return ""


def _list_word(option: Option) -> str:
    inner = describe(_entry(option, [], 0))
    arguments = get_args(option.kind)
    count = len(arguments) if get_origin(option.kind) is tuple and Ellipsis not in arguments else 0
    return (f"a list of {count}" if count else "a list") + (f", each {inner}" if inner else "")


def one_of(values: Iterable[Any]) -> str:
    """`a`, `b` or `c`."""
    return listed(values, last="or")


def listed(values: Iterable[Any], *, last: str = "and") -> str:
    """The values in backquotes, as YAML writes them."""
    shown = [f"`{as_yaml(value)}`" for value in values]
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + f" {last} " + shown[-1] if shown else "nothing"


def as_yaml(value: Any) -> str:
    """A single value as YAML writes it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
