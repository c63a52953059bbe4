"""Options of a plugin as rows: name, type, default, what it means."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, final, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_WORDS: dict[object, str] = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    type(None): "null",
    Any: "anything",
}


@final
@dataclass(frozen=True, slots=True)
class OptionRow:
    """One option."""

    name: str
    """Dotted where it stands in a section."""
    type: str
    default: str | None
    """As written in YAML; None when it must be given."""
    text: str


def option_rows(model: type[BaseModel], prefix: str = "") -> list[OptionRow]:
    """Every option of a Params class, those of its sections after the section."""
    rows: list[OptionRow] = []
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        rows.append(OptionRow(path, _type(field), _default(field), field.description or ""))
        for section in _sections(field.annotation):
            rows += option_rows(section, f"{path}.")
    return rows


def _type(field: FieldInfo) -> str:
    return _words(field.annotation) + _bounds(field.metadata)


def _default(field: FieldInfo) -> str | None:
    if field.is_required():
        return None
    return _yaml(field.get_default(call_default_factory=True, validated_data={}))


def _yaml(value: object) -> str:
    """A default as one would write it."""
    if isinstance(value, BaseModel):
        return _yaml(dict(value))
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_yaml(item)}' for name, item in value.items())}}}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(_yaml(item) for item in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else (f"{value}" or '""')


def _words(annotation: object) -> str:
    """An annotation in the words of a YAML author."""
    if annotation in _WORDS:
        return _WORDS[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(arguments[0]) + _bounds([part for each in arguments[1:] for part in _parts(each)])
    if origin is Literal:
        return " | ".join(str(each) for each in arguments)
    if origin in (Union, types.UnionType):
        return " | ".join(_words(each) for each in arguments)
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        return f"[{', '.join(_words(each) for each in arguments)}]"
    if origin in (tuple, list, frozenset, set, Sequence):
        return f"list of {_words(arguments[0])}"
    if origin in (dict, Mapping):
        return f"mapping of {_words(arguments[0])} to {_words(arguments[1])}"
    return "section" if isinstance(annotation, type) and issubclass(annotation, BaseModel) else str(annotation)


def _parts(metadata: object) -> Sequence[object]:
    return metadata.metadata if isinstance(metadata, FieldInfo) else [metadata]


def _bounds(metadata: Sequence[object]) -> str:
    """Limits of a number."""
    found = [text for each in metadata if (text := _bound(each))]
    return f" {', '.join(found)}" if found else ""


def _bound(limit: object) -> str:
    match limit:
        case Ge(ge=value):
            return f">= {value}"
        case Gt(gt=value):
            return f"> {value}"
        case Le(le=value):
            return f"<= {value}"
        case Lt(lt=value):
            return f"< {value}"
    return ""


def _sections(annotation: object) -> list[type[BaseModel]]:
    """Sections an annotation holds, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for each in get_args(annotation) for section in _sections(each)]
