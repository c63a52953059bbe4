"""Text of one YAML document to nodes that remember where every key and every value stands.

The dialect is the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), because the 1.1 rules that
PyYAML applies turn `no` into False, `1:30` into 90 and leave `1e-6` a text. Here:

- `true`/`false` (also capitalised) are the only booleans; `yes`, `no`, `on`, `off` are text;
- `1e-6`, `.5` and `5.` are numbers, `0o17` and `0x1f` are integers, `017` is 17, `1_000` and dates are text;
- `null`, `~` and nothing at all are null; keys are always text (`1:` is the key `1`);
- merge keys (`<<`), tags other than `!replace`, several documents, infinities and NaN are problems.

A problem that leaves the rest readable is collected, the value in question becomes null, and reading goes on.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, final

import yaml
from yaml import events

from wavalign.errors import Problem, Where
from wavalign.schema.masking import masked
from wavalign.schema.yaml_errors import explain_yaml_error

Path = tuple[str | int, ...]
Scalar = str | int | float | bool | None

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 20_000

NULL = re.compile(r"(?:null|Null|NULL|~|)\Z")
BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
INT = re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z")
FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
NON_FINITE = re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")
_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_UNUSABLE = re.compile("[\x00\ud800-\udfff]")
_INT_LIMIT = 1 << 63


def dotted(path: Path) -> str:
    """`("stages", 0, "name")` as `stages.0.name`."""
    return ".".join(str(part) for part in path)


class _Mark(Protocol):
    line: int
    column: int


@final
class TextOrigin:
    """A text and what to call it in a message."""

    def __init__(self, file: str, text: str, *, via: str = "", offset: int = 0) -> None:
        """`via` starts the account of how values came here; `offset` is where YAML begins on the first line."""
        self.file, self.via, self.offset = file, via, offset
        self.lines = masked(_BREAK.split(text))

    def where(self, line: int, column: int) -> Where:
        """`line` and `column` count from 0, as PyYAML's marks do."""
        text = self.lines[line] if line < len(self.lines) else ""
        column += self.offset if line == 0 else 0
        via = f"{self.via}:{line + 1}" if self.via.startswith("from ") else self.via
        return Where(self.file, line + 1, column + 1, text, via)

    def at(self, mark: _Mark | None) -> Where:
        """Where a PyYAML mark points; events that come from text always have one."""
        return self.where(mark.line, mark.column) if mark is not None else self.where(0, 0)


@final
@dataclass(frozen=True, slots=True)
class Node:
    """A value of the tree; nodes are shared between an anchor and its aliases."""

    value: "dict[str, Node] | list[Node] | Scalar"
    where: Where
    key: Where
    """Of its key in a mapping; of the value itself elsewhere."""
    path: Path
    """As written, before stages are merged."""
    replace: bool = False
    """Tagged `!replace`."""
    size: int = 1
    """Nodes in here once aliases are written out."""
    height: int = 0
    """Levels below."""


@final
@dataclass(frozen=True, slots=True)
class Composed:
    """What could be read of a document."""

    root: Node | None
    """None when there is no document, or when it cannot be read to its end."""
    problems: tuple[Problem, ...]


class _UnreadableError(Exception):
    """Reading cannot go on."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def compose(text: str, origin: TextOrigin, *, prefix: Path = ()) -> Composed:
    """Read one document; `prefix` is the path its root will have."""
    composer = _Composer(text, origin)
    try:
        root = composer.document(prefix)
    except _UnreadableError as stop:
        return Composed(None, (*composer.problems, stop.problem))
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # PyYAML leaks the last two from odd escapes
        return Composed(None, (*composer.problems, explain_yaml_error(error, text, origin.where)))
    return Composed(root, tuple(composer.problems))


@final
class _Composer:
    """One pass over the events of one document."""

    def __init__(self, text: str, origin: TextOrigin) -> None:
        self.origin = origin
        self.problems: list[Problem] = []
        self._events: Iterator[events.Event] = iter(yaml.parse(text, Loader=yaml.SafeLoader))
        self._anchors: dict[str, Node | None] = {}
        self._total = 0

    def document(self, prefix: Path) -> Node | None:
        """The root of the only document."""
        self._next()
        if isinstance(self._next(), events.StreamEndEvent):
            return None
        start = self._next()
        root = self._node(start, prefix, self.origin.at(start.start_mark))
        self._next()
        rest = self._next()
        if not isinstance(rest, events.StreamEndEvent):
            where = self.origin.at(rest.start_mark)
            message = "a second YAML document begins here"
            self._problem("yaml_document", prefix, message, "keep one recipe per file", where)
        return root

    def _next(self) -> events.Event:
        return next(self._events)

    def _problem(self, code: str, path: Path, message: str, hint: str, where: Where) -> None:
        self.problems.append(Problem(code, dotted(path), message, hint, where))

    def _node(self, event: events.Event, path: Path, key: Where | None) -> Node:
        where = self.origin.at(event.start_mark)
        if len(path) > MAX_DEPTH:
            message = f"nested deeper than {MAX_DEPTH} levels"
            raise _UnreadableError(Problem("yaml_too_deep", dotted(path[:4]) + "...", message, "", where))
        if isinstance(event, events.AliasEvent):
            return self._alias(event, path, where, key or where)
        self._count(1, where)
        assert isinstance(event, events.NodeEvent)
        anchor = event.anchor
        if anchor is not None:
            self._anchors[anchor] = None
        if isinstance(event, events.ScalarEvent):
            node = Node(self._scalar(event, path, where), where, key or where, path)
        elif isinstance(event, events.SequenceStartEvent):
            self._tag(event.tag, path, where, replaceable=False)
            node = self._sequence(path, where, key or where)
        else:
            assert isinstance(event, events.MappingStartEvent)
            replaces = self._tag(event.tag, path, where, replaceable=True)
            node = replace(self._mapping(path, where, key or where), replace=replaces)
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _count(self, size: int, where: Where) -> None:
        self._total += size
        if self._total > MAX_NODES:
            hint = "aliases count for everything they repeat"
            raise _UnreadableError(Problem("yaml_too_large", "", f"more than {MAX_NODES} values", hint, where))

    def _alias(self, event: events.AliasEvent, path: Path, where: Where, key: Where) -> Node:
        name = event.anchor
        empty = Node(None, where, key, path)
        if name not in self._anchors:
            known = ", ".join(f"`&{anchor}`" for anchor in self._anchors) or "none so far"
            self._problem("yaml_alias", path, f"`*{name}` repeats nothing", f"anchors above this line: {known}", where)
            return empty
        target = self._anchors[name]
        if target is None:
            self._problem("yaml_alias", path, f"`*{name}` stands inside what it repeats", "", where)
            return empty
        if len(path) + target.height > MAX_DEPTH:
            message, hint = f"nested deeper than {MAX_DEPTH} levels", "an alias counts with everything it repeats"
            raise _UnreadableError(Problem("yaml_too_deep", dotted(path), message, hint, where))
        self._count(target.size, where)
        return replace(target, where=where, key=key, path=path)

    def _sequence(self, path: Path, where: Where, key: Where) -> Node:
        items: list[Node] = []
        while not isinstance(event := self._next(), events.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items)), None))
        return _measured(Node(items, where, key, path), items)

    def _mapping(self, path: Path, where: Where, key: Where) -> Node:
        items: dict[str, Node] = {}
        while not isinstance(event := self._next(), events.MappingEndEvent):
            spot = self.origin.at(event.start_mark)
            name = self._key(event, path, spot)
            value = self._node(self._next(), (*path, "?" if name is None else name), spot)
            if name is None:
                continue
            if name in items:
                hint = f"it is already on line {items[name].key.line}; keep one of the two"
                self._problem("duplicate_key", (*path, name), f"`{name}` is written twice", hint, spot)
            else:
                items[name] = value
        return _measured(Node(items, where, key, path), list(items.values()))

    def _key(self, event: events.Event, path: Path, where: Where) -> str | None:
        if not isinstance(event, events.ScalarEvent):
            if not isinstance(event, events.AliasEvent):
                before = len(self.problems)
                self._node(event, (*path, "?"), where)
                del self.problems[before:]  # what is wrong inside a key that is wrong as a whole helps nobody
            hint = "quote it if it is text; a brace or bracket opens a mapping or a list"
            self._problem("yaml_key", path, "a key must be plain text", hint, where)
            return None
        name = event.value
        if event.style is None and name == "<<":
            hint = "use `extends`, or repeat the keys"
            self._problem("yaml_merge_key", path, "`<<` (YAML 1.1 merge) is not supported", hint, where)
            return None
        if not name or event.tag is not None or _UNUSABLE.search(name):
            self._problem("yaml_key", path, "a key must be plain text", "write `key: value`", where)
            return None
        return str(name)

    def _tag(self, tag: str | None, path: Path, where: Where, *, replaceable: bool) -> bool:
        if tag is None or (tag == "!replace" and replaceable):
            return tag is not None
        shown = tag.replace("tag:yaml.org,2002:", "!!")
        if tag == "!replace":
            hint = "lists and single values replace what they inherit anyway; for an empty mapping write `!replace {}`"
            self._problem("yaml_tag", path, "`!replace` stands before a mapping only", hint, where)
        else:
            hint = "remove it; quotes make a text, and `!replace` is the only tag"
            self._problem("yaml_tag", path, f"tag `{shown}` is not allowed", hint, where)
        return False

    def _scalar(self, event: events.ScalarEvent, path: Path, where: Where) -> Scalar:
        text = str(event.value)
        if event.tag is not None:
            self._tag(event.tag, path, where, replaceable=False)
            return None
        if _UNUSABLE.search(text):
            self._problem("yaml_text", path, "the text holds a character that cannot be stored", "", where)
            return None
        if event.style is not None:
            return text
        if NON_FINITE.match(text) or _too_big(text):
            message = f"`{text if len(text) < 40 else text[:37] + '...'}` is not a number that can be used"
            self._problem("non_finite", path, message, "write a finite number, or leave the key out", where)
            return None
        return plain_scalar(text)


def plain_scalar(text: str) -> Scalar:
    """Value of an unquoted scalar under the core schema; numbers must be finite and of sane length."""
    if NULL.match(text):
        return None
    if BOOL.match(text):
        return text[0] in "tT"
    if INT.match(text):
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    return float(text) if FLOAT.match(text) else text


def _too_big(text: str) -> bool:
    if INT.match(text):
        return len(text) > 40 or abs(int(plain_scalar(text) or 0)) >= _INT_LIMIT
    return FLOAT.match(text) is not None and not math.isfinite(float(text))


def _measured(node: Node, items: list[Node]) -> Node:
    height = 1 + max((item.height for item in items), default=0)
    return replace(node, size=1 + sum(item.size for item in items), height=height)
