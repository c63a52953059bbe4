"""What pydantic found, as problems in plain words at the place where the recipe says it."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from wavalign.errors import Problem, quoted
from wavalign.schema.composer import Path, dotted
from wavalign.schema.marks import Source, holds, locate, names_itself
from wavalign.schema.shapes import Option, Options, as_yaml, describe, fits, inside, leaves, listed, one_of

_MISMATCH = re.compile(r".*_(?:type|parsing|from_float)\Z|literal_error\Z|enum\Z|is_instance_of\Z|none_required\Z")
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
    "multiple_of": ("multiple_of", "a multiple of"),
}


def problems_from_validation(
    error: ValidationError, prefix: Path, model: type[BaseModel], source: Source, *, beside: Iterable[str] = ()
) -> list[Problem]:
    """Translate `error`, raised by making a `model` of what stands at `prefix` of the recipe.

    `beside` names further keys that may stand at `prefix`, for suggestions (a component's own, such as `weight`).
    """
    finder = _Finder(model, source, _base(model, prefix, source), tuple(beside))
    spots = [finder.spot(details) for details in error.errors(include_url=False)]
    spots = [spot for spot in spots if not _is_consequence(spot)]
    return list(dict.fromkeys(finder.problem(spot) for spot in _without_rivals(spots)))


def conversion_problems(model: type[BaseModel], tree: Any, prefix: Path, source: Source) -> list[Problem]:
    """Single values that pydantic would convert silently: `"8"` for 8, `true` for 1, `yes` for true."""
    found: list[Problem] = []
    base = _base(model, prefix, source)
    for path, value, accepted in leaves((Option(model),), tree, ()):
        if not fits(accepted, value):
            place, _ = locate(source.tree, (*base, *path))
            found.append(_mismatch(accepted, value, path=place, source=source))
    return found


@final
@dataclass(frozen=True, slots=True)
class _Spot:
    """One pydantic error, followed through the annotations to its place in the file."""

    kind: str
    """pydantic's name of the error."""
    context: Mapping[str, Any]
    said: str
    path: Path
    """The nearest place that exists in the tree."""
    name: str
    """The key in question, when it is missing, unknown or itself wrong."""
    of_key: bool
    """The key is wrong, not the value."""
    value: Any
    accepted: Options
    union: Path | None
    """Where a union began on the way here; its members complain one by one."""
    member: Option | None
    """The member of that union."""


@final
class _Finder:
    """Follows error locations from one model."""

    def __init__(self, model: type[BaseModel], source: Source, base: Path, beside: tuple[str, ...]) -> None:
        self.model, self.source, self.base, self.beside = model, source, base, beside

    def spot(self, details: ErrorDetails) -> _Spot:
        """Walk a location such as `("terms", "rl", "tokens", "Component", "type")` beside the tree."""
        accepted: Options = (Option(self.model),)
        path, value = self.base, _value(self.source.tree, self.base)
        location, union, member, name, of_key = details["loc"], None, None, "", False
        for index, part in enumerate(location):
            last = index == len(location) - 1
            tagged = _member(accepted, part) if len(_alternatives(accepted)) > 1 else None
            if tagged is not None:
                union, member, accepted = (path, tagged, (tagged,)) if union is None else (union, member, (tagged,))
            elif part == "[key]":
                of_key, name = True, str(path[-1])
            elif holds(value, part) and not names_itself(value, part, None if last else location[index + 1]):
                accepted = inside(accepted, value, part)
                path, value = (*path, part), value[part]
            elif last and (isinstance(part, str) or details["type"] == "missing"):
                name = str(part)
            else:  # a step that the short form of the file leaves out
                accepted = inside(accepted, [], part) or accepted
        kind = details["type"]
        if kind == "extra_forbidden":
            of_key, name = True, str(path[-1]) if path else name
        return _Spot(kind, details.get("ctx", {}), details["msg"], path, name, of_key, value, accepted, union, member)

    def problem(self, spot: _Spot) -> Problem:
        """Say it."""
        if spot.kind == "missing" and isinstance(spot.value, list):
            message = f"expected {describe(spot.accepted)}, got {show(spot.value)}"
            return Problem("bad_value", self._shown(spot.path), message, "", self.source.marks[spot.path])
        if spot.kind == "missing":
            return self._missing(spot)
        if spot.kind == "extra_forbidden":
            return self._unknown(spot)
        if spot.of_key:
            return self._bad_key(spot)
        if _MISMATCH.match(spot.kind):
            return _mismatch(spot.accepted, spot.value, path=spot.path, source=self.source)
        if spot.kind in ("value_error", "assertion_error"):
            return self._own_words(spot)
        return self._bounds(spot)

    def _missing(self, spot: _Spot) -> Problem:
        owners = [option.model.model_fields for option in spot.accepted if option.model is not None]
        info = next((fields[spot.name] for fields in owners if spot.name in fields), None)
        about = (info.description or "").split("\n")[0].rstrip(".") if info is not None else ""
        owned = inside(spot.accepted, {}, spot.name)
        expected = describe(owned)
        hint = f"add `{spot.name}: ...`" + (f", {expected}" if expected else "") + (f": {about}" if about else "")
        message = f"{_holder(self.source.written[spot.path])} has no `{spot.name}`"
        shown = dotted((*self.source.written[spot.path], spot.name))
        return Problem("missing_key", shown, message, hint, self.source.keys[spot.path])

    def _unknown(self, spot: _Spot) -> Problem:
        parent = spot.path[:-1]
        models = [option.model for option in self._accepted(parent) if option.model is not None]
        known = list(dict.fromkeys(name for model in models for name in model.model_fields if name != "params"))
        if parent == self.base:
            known += [name for name in self.beside if name not in known]
        hint = did_you_mean(spot.name, known) or (f"known keys: {listed(known)}" if known else "there are no keys here")
        where = self.source.keys[spot.path]
        kind = self.source.marks.get((*parent, "type"))
        if kind is not None and kind.file != where.file and where.via.startswith("from "):
            hint = f"it is inherited ({where.via}); put `!replace` before the mapping that changes `type`"
        return Problem("unknown_key", self._shown(spot.path), f"unknown key `{quoted(spot.name)}`", hint, where)

    def _accepted(self, path: Path) -> Options:
        accepted: Options = (Option(self.model),)
        value = _value(self.source.tree, self.base)
        for part in path[len(self.base) :]:
            accepted, value = inside(accepted, value, part), value[part]
        return accepted

    def _bad_key(self, spot: _Spot) -> Problem:
        expected = spot.context.get("expected")
        allowed = [word.strip("'") for word in re.split(r", | or ", str(expected))] if expected else []
        hint = did_you_mean(spot.name, allowed) or (f"allowed: {one_of(allowed)}" if allowed else spot.said)
        where, path = self.source.keys[spot.path], self._shown(spot.path)
        return Problem("unknown_key", path, f"unknown key `{quoted(spot.name)}`", hint, where)

    def _own_words(self, spot: _Spot) -> Problem:
        """A validator of ours said what is wrong; where its text begins with a key, that key is the place."""
        said = str(spot.context.get("error", spot.said))
        first = said.split(" ", 1)[0].strip("`'\"")
        path = (*spot.path, first) if holds(spot.value, first) else spot.path
        return Problem("bad_value", self._shown(path), said, "", self.source.marks[path])

    def _bounds(self, spot: _Spot) -> Problem:
        shown, context = show(spot.value), spot.context
        hint, code = "", "bad_value"
        if spot.kind in _BOUNDS:
            key, words = _BOUNDS[spot.kind]
            message, code = f"must be {words} {context[key]:g}, got {shown}", "out_of_range"
        elif spot.kind in ("too_short", "string_too_short"):
            message = f"must have at least {_entries(context['min_length'])}, got {shown}"
        elif spot.kind in ("too_long", "string_too_long"):
            message = f"must have at most {_entries(context['max_length'])}, got {shown}"
        elif spot.kind == "string_pattern_mismatch":
            message = f"{shown} holds characters that are not allowed here"
            hint = f"letters, digits and `-`, `_` are safe; the rule is {context['pattern']}"
        elif spot.kind == "finite_number":
            message, code = f"{shown} is not a finite number", "non_finite"
        elif spot.kind == "union_tag_invalid":
            allowed = [word.strip("'") for word in str(context["expected_tags"]).split(", ")]
            message = f"`{quoted(context['tag'])}` is none of {listed(allowed)}"
            hint = did_you_mean(str(context["tag"]), allowed)
        else:
            message = spot.said[:1].lower() + spot.said[1:]
        tag = str(context.get("discriminator", "")).strip("'")
        path = (*spot.path, tag) if holds(spot.value, tag) else spot.path
        return Problem(code, self._shown(path), message, hint, self.source.marks[path])

    def _shown(self, path: Path) -> str:
        return dotted(self.source.written[path])


def _mismatch(accepted: Options, value: Any, *, path: Path, source: Source) -> Problem:
    """A value of another type than wanted, or none of the allowed ones."""
    shown_path, where = dotted(source.written[path]), source.marks[path]
    allowed = [item for option in accepted for item in option.literals]
    only_choices = bool(allowed) and all(option.literals or option.kind is type(None) for option in accepted)
    expected = describe(tuple(option for option in accepted if option.kind is not type(None))) or "something else"
    near = did_you_mean(value, allowed)
    if only_choices and not isinstance(value, Mapping | list) and value is not None:
        return Problem("bad_value", shown_path, f"{show(value)} is not {one_of(allowed)}", near, where)
    message = f"expected {expected}, got {show(value)}"
    return Problem("wrong_type", shown_path, message, near or _advice(accepted, value), where)


def _advice(accepted: Options, value: Any) -> str:
    """How to write what was probably meant."""
    kinds = {option.kind for option in accepted}
    if value is None:
        return "write a value, or remove the line"
    if isinstance(value, str) and kinds & {int, float}:
        plain = value.replace("_", "").replace(",", "")
        try:
            float(plain)
        except ValueError:
            return ""
        return f"write {plain}, without quotes, `_` and `,`"
    if isinstance(value, str) and bool in kinds:
        meant = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(value.lower(), "")
        return f"did you mean `{meant}`?" if meant else "write `true` or `false` without quotes"
    if isinstance(value, int | float) and str in kinds:
        return f'put it in quotes: "{as_yaml(value)}"'
    lists = any(option.is_sequence for option in accepted)
    if lists and (isinstance(value, int | float) or (isinstance(value, str) and len(value) < 40)):
        return f"put it in a list: [{as_yaml(value)}]"
    wants_keys = any(option.model is not None or option.is_mapping for option in accepted)
    return "write `key: value` lines below it" if wants_keys else ""


def did_you_mean(word: object, known: Sequence[object]) -> str:
    """The nearest of `known` as a question, or nothing."""
    texts = [str(item) for item in known]
    near = difflib.get_close_matches(str(word), texts, n=1, cutoff=0.6) if isinstance(word, str) else []
    return f"did you mean `{near[0]}`?" if near else ""


def show(value: Any) -> str:
    """A value as a person would name it."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return f"a list of {_entries(len(value))}" if value else "an empty list"
    text = as_yaml(value)
    text = quoted(text, 60)
    return f'the text "{text}"' if isinstance(value, str) else f"{text}"


def _holder(path: Path) -> str:
    if not path:
        return "the recipe"
    return f"entry {path[-1]} of `{path[-2]}`" if isinstance(path[-1], int) else f"`{path[-1]}`"


def _is_consequence(spot: _Spot) -> bool:
    """Whether a list is said to be too short only because entries of it are wrong."""
    if spot.kind != "too_short" or not isinstance(spot.value, list | Mapping):
        return False
    return len(spot.value) >= int(spot.context["min_length"])


def _entries(count: int) -> str:
    return f"{count} {'entry' if count == 1 else 'entries'}"


def _base(model: type[BaseModel], prefix: Path, source: Source) -> Path:
    """Where what becomes a `model` stands: at `prefix`, or under the `params` written out there."""
    base, _ = locate(source.tree, prefix)
    value = _value(source.tree, base)
    spelt_out = isinstance(value, Mapping) and set(value) == {"type", "params"} and isinstance(value["params"], Mapping)
    return (*base, "params") if spelt_out and not {"type", "params"} & set(model.model_fields) else base


def _value(tree: Any, path: Path) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def _alternatives(accepted: Options) -> Options:
    return tuple(option for option in accepted if option.kind is not type(None))


def _member(accepted: Options, tag: str | int) -> Option | None:
    """The member of a union that pydantic means by `tag`, e.g. `int`, `Component`, `literal['a']`, `dict[str,int]`."""
    if not isinstance(tag, str):
        return None
    head = re.split(r"[\[(]", tag, maxsplit=1)[0].removeprefix("constrained-")
    for option in accepted:
        if option.model is not None:
            if option.model.__name__ == tag:
                return option
        elif option.literals:
            if head in ("literal", "enum"):
                return option
        elif option.is_mapping:
            if head in ("dict", "mapping"):
                return option
        elif option.is_sequence:
            if head in ("tuple", "list", "set", "frozenset"):
                return option
        elif head == getattr(option.kind, "__name__", ""):
            return option
    return None


def _without_rivals(spots: Iterable[_Spot]) -> list[_Spot]:
    """Of the complaints of a union's members keep those of the member that was probably meant."""
    kept: list[_Spot] = []
    groups: dict[Path, list[_Spot]] = {}
    for spot in spots:
        if spot.union is None:
            kept.append(spot)
        else:
            groups.setdefault(spot.union, []).append(spot)
    return kept + [spot for group in groups.values() for spot in _meant(group)]


def _meant(group: list[_Spot]) -> list[_Spot]:
    deep = [spot for spot in group if spot.path != spot.union or spot.name]
    if deep:
        named = [spot for spot in deep if spot.member is not None and spot.member.model is not None]
        has_type = any(spot.union is not None and spot.name != "type" for spot in named)
        free = [spot for spot in deep if spot not in named]
        return named if named and (has_type or not free) else free
    exact = [spot for spot in group if not _MISMATCH.match(spot.kind)]
    if exact:
        return exact
    first = group[0]
    merged = tuple(option for spot in group for option in spot.accepted)
    return [_Spot(first.kind, first.context, first.said, first.path, "", False, first.value, merged, None, None)]
