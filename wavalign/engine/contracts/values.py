"""What values of a contract have in common: numbers, tensors, text; each check raises Broken."""

import math
import reprlib
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from wavalign.plugins.guard import Broken


def named(value: object) -> str:
    """A value's type in words."""
    if value is None:
        return "None"
    return f"numpy.{type(value).__name__}" if type(value).__module__ == "numpy" else type(value).__name__


def shown(value: object) -> str:
    """A value in a message, cut short."""
    return reprlib.repr(value)


def want(value: object, type_: type | tuple[type, ...], what: str) -> None:
    """Raise unless `value` is a `type_`."""
    if not isinstance(value, type_):
        wanted = type_.__name__ if isinstance(type_, type) else " or ".join(each.__name__ for each in type_)
        raise Broken(f"gave {named(value)} as {what}, which is to be {wanted}")


def number(
    value: object,
    what: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    nan: bool = False,
    infinite: bool = False,
) -> float:
    """A number from `low` to `high` as a float; NaN and infinity only where they are allowed."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise Broken(f"gave {named(value)} as {what}, which is to be a number")
    try:
        found = float(value)
    except (OverflowError, ValueError, TypeError) as error:
        raise Broken(f"gave as {what} a {named(value)} that is no float: {error}") from error
    if math.isnan(found) and nan:
        return found
    if math.isnan(found) or (math.isinf(found) and not infinite):
        raise Broken(f"gave {found} as {what}")
    if not low <= found <= high:
        raise Broken(f"gave {exact(found)} as {what}, which goes from {exact(low)} to {exact(high)}")
    return found


def exact(value: float) -> str:
    """A number as short as it can be said: what is barely above 1 is not shown as 1."""
    short = f"{value:g}"
    return short if float(short) == value or value != value else repr(value)


def whole(value: object, what: str, *, low: int = 0) -> int:
    """A whole number of at least `low` as an int."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise Broken(f"gave {named(value)} as {what}, which is to be a whole number")
    if value < low:
        raise Broken(f"gave {shown(value)} as {what}, which is to be at least {low}")
    return int(value)


def tensor(value: object, what: str, *, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """A plain, dense tensor [*shape], of `dtype` or else of any floating one."""
    if not isinstance(value, Tensor):
        raise Broken(f"gave {named(value)} as {what}, which is to be a tensor")
    if value.layout is not torch.strided:
        raise Broken(f"gave {what} as a sparse tensor ({_plain(value.layout)})", hint="hand `x.to_dense()` on")
    if tuple(value.shape) != tuple(shape):
        raise Broken(f"gave {what} of shape {list(value.shape)}, which is to be {list(shape)}")
    if dtype is not None and value.dtype != dtype:
        raise Broken(f"gave {what} of {_plain(value.dtype)}, which is to be {_plain(dtype)}")
    if dtype is None and not value.dtype.is_floating_point:
        raise Broken(f"gave {what} of {_plain(value.dtype)}, which is to be a floating type")
    return value if type(value) is Tensor else value.as_subclass(Tensor)  # a class of one's own computes as it likes


def same_device(value: Tensor, other: Tensor, what: str, others: str) -> None:
    """Raise unless `value` [...] is on the device of `other` [...]."""
    if value.device != other.device:
        raise Broken(f"gave {what} on {value.device}, {others} on {other.device}")


def finite(value: Tensor, what: str, *, where: Tensor | None = None) -> None:
    """Raise unless all elements of `value` [...] (those `where` [...] it is True) are finite."""
    bad = ~torch.isfinite(value.detach())
    if where is not None:
        bad &= where
    if bool(bad.any()):
        first = tuple(int(index) for index in bad.nonzero()[0])
        raise Broken(f"gave {float(value.detach()[first])} in {what} at {list(first)}")


def names(value: object, what: str) -> frozenset[str]:
    """A set of names."""
    if not isinstance(value, frozenset | set | tuple | list) or not all(isinstance(each, str) for each in value):
        raise Broken(f"gave {shown(value)} as {what}, which is to be a frozenset of names")
    return frozenset(value)


def ids(value: object, what: str, *, below: int | None) -> list[int]:
    """Whole numbers from 0 to below `below` as a list of ints."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise Broken(f"gave {named(value)} as {what}, which is to be a list of ids")
    for index, each in enumerate(value):
        if type(each) is not int:
            whole(each, f"{what}[{index}]")
        if each < 0 or (below is not None and each >= below):
            raise Broken(f"gave {shown(each)} as {what}[{index}]" + (f"; ids go up to {below - 1}" if below else ""))
    return [int(each) for each in value]


class Unchanged:
    """Detects in-place changes of tensors that a plugin is given: they would change what is learned."""

    __slots__ = ("_lent",)

    def __init__(self, lent: Mapping[str, Tensor | None]) -> None:
        """Watch the tensors [...] `lent` under their names."""
        self._lent = [(name, each, _version(each)) for name, each in lent.items() if each is not None]

    def check(self) -> None:
        """Raise when one was written to."""
        for name, each, version in self._lent:
            if _version(each) != version:
                raise Broken(f"changed `{name}` in place", hint="work on a copy, e.g. `x * 2` for `x.mul_(2)`")


def one_line(value: object, what: str) -> str:
    """A name that people and files are shown: printable text in one line."""
    if not isinstance(value, str) or not value:
        raise Broken(f"gave {shown(value)} as {what}")
    if not value.isprintable():
        raise Broken(f"gave {shown(value)} as {what}, which is to be printable, in one line")
    return value


def json_value(value: object, path: str) -> None:
    """Raise unless `value` is equal after a round trip through JSON."""
    if value is None or isinstance(value, bool | int | str):
        if isinstance(value, str):
            _text(value, path)
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Broken(f"gave {value} at {path}: JSON has no such number", hint="keep None, or a text")
        return
    if isinstance(value, Mapping):
        for key, each in value.items():
            if not isinstance(key, str):
                raise Broken(f"has the key {shown(key)} at {path}: JSON's keys are text", hint="turn it into a str")
            json_value(each, f"{path}.{key}")
        return
    if isinstance(value, list | tuple):
        for index, each in enumerate(value):
            json_value(each, f"{path}[{index}]")
        return
    raise Broken(
        f"gave {named(value)} at {path}, which JSON cannot hold", hint="keep numbers, text, lists and mappings of them"
    )


def text(value: object) -> str:
    """Any value as text that a file can hold; for what is shown, never for what is computed with."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return text(str(value))


def _text(value: str, path: str) -> None:
    if text(value) != value:
        raise Broken(f"gave text with half a character at {path}", hint="decode the text with errors='replace'")


def _version(value: Any) -> int:
    return 0 if value.is_inference() else int(value._version)


def _plain(word: torch.dtype | torch.layout) -> str:
    return str(word).removeprefix("torch.")
