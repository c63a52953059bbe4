"""A recipe's text, with what it extends and what the command line sets, as one plain tree that knows its places.

`extends: base.yaml` puts a file under this one (a chain of them, each relative to the file that names it; where there
is no such file, a recipe that comes along, such as `quickstart`); `--set a.b=value` puts a value over everything.
Mappings merge deeply; lists, single values and empty mappings replace; a mapping tagged `!replace` replaces too. A
`description` is its file's own: no recipe inherits one. The dialect is that of `schema.composer`.
"""

import difflib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import final

from wavalign.errors import Problem, RecipeError, Where, quoted
from wavalign.schema.anchoring import anchor
from wavalign.schema.composer import MAX_BYTES, MAX_DEPTH, Node, Path, TextOrigin, compose, dotted, plain_scalar
from wavalign.schema.environment import environment_problems
from wavalign.schema.marks import SET, Source, in_file_order, merge, source_of

__all__ = ["MAX_CHAIN", "SET", "Path", "Source", "anchor", "read_source", "scan_source"]

SHIPPED = "wavalign_recipes"
"""Package of the recipes that come along."""
MAX_NAME = 200
MAX_CHAIN = 16
"""Longest chain of `extends`."""


def read_source(path: str, overrides: Sequence[str] = ()) -> Source:
    """Read a recipe, what it extends and `overrides` (`a.b=value`); raises RecipeError with all that is wrong."""
    source = scan_source(path, overrides)
    if source.problems:
        raise RecipeError(source.problems)
    return source


def scan_source(path: str, overrides: Sequence[str] = ()) -> Source:
    """Like `read_source`, but raises only when there is no tree at all; otherwise `problems` holds what is wrong."""
    reader = _Reader()
    root = reader.file(path, None)
    if root is None:
        raise RecipeError(in_file_order(reader.problems, reader.names))
    for argument in overrides:
        root = _override(root, argument, reader.problems)
    files = tuple(os.path.abspath(name) for name in reader.names)
    source = source_of(root, path=path, files=files)
    reader.problems += environment_problems(source.tree, source.marks, os.environ)
    return replace(source, problems=in_file_order(reader.problems, reader.names))


# --- files ------------------------------------------------------------------------------------------------------------


@final
class _Reader:
    """Reads a recipe and its chain of bases."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.problems: list[Problem] = []

    def file(self, name: str, asked: Where | None) -> Node | None:
        """The merged root of `name`; `asked` is where an `extends` names it."""
        text = self._text(name, asked)
        self.names.append(name)
        if text is None:
            return None
        via = f"from {os.path.basename(name)}" if asked else ""
        composed = compose(text, TextOrigin(name, text, via=via))
        self.problems += composed.problems
        root = composed.root
        if root is None:
            if not composed.problems:
                hint = "a recipe needs at least `name` and `model`"
                self.problems.append(Problem("empty_file", "", "the file is empty", hint, Where(name, 1, 1, "", via)))
            return None
        if not isinstance(root.value, dict):
            hint = "begin with keys such as `name:` and `model:`"
            message = f"a recipe is a mapping of keys, and this is {_kind(root)}"
            self.problems.append(Problem("not_a_mapping", "", message, hint, root.where))
            return None
        return self._on_base(name, root, root.value)

    def _on_base(self, name: str, root: Node, items: dict[str, Node]) -> Node | None:
        if "extends" not in items:
            return root
        own = replace(root, value={key: item for key, item in items.items() if key != "extends"})
        target = items["extends"]
        base_name = self._base_name(name, target)
        base = self.file(base_name, target.where) if base_name is not None else None
        if base is None or not isinstance(base.value, dict):
            return None  # half a recipe would only raise questions
        inherited = replace(base, value={key: item for key, item in base.value.items() if key != "description"})
        return merge(inherited, own) if own.value else inherited

    def _base_name(self, name: str, target: Node) -> str | None:
        if not isinstance(target.value, str) or not target.value or "://" in target.value:
            message = "`extends` takes the path of one recipe file"
            hint = "e.g. `extends: base.yaml`; for several, let the base extend the next"
            self.problems.append(Problem("bad_extends", "extends", message, hint, target.where))
            return None
        base = os.path.normpath(os.path.join(os.path.dirname(name), target.value))
        if not os.path.lexists(base):
            base = shipped_recipe(target.value) or base
        seen = [os.path.realpath(known) for known in self.names]
        if os.path.realpath(base) in seen:
            chain = [*self.names[seen.index(os.path.realpath(base)) :], base]
            message = "recipes extend one another in a circle: " + " -> ".join(chain)
            self.problems.append(Problem("extends_cycle", "extends", message, "remove one `extends`", target.where))
            return None
        if len(self.names) >= MAX_CHAIN:
            message = f"more than {MAX_CHAIN} recipes extend one another"
            self.problems.append(Problem("extends_chain", "extends", message, "merge some of them", target.where))
            return None
        return base

    def _text(self, name: str, asked: Where | None) -> str | None:
        path, spot = ("extends", asked) if asked else ("", Where(name, 1, 1))
        if asked and os.path.exists(name) and not os.path.isfile(name) and not os.path.isdir(name):
            message = f"`{quoted(name)}` is a pipe or a device, which may never end"
            self.problems.append(Problem("unreadable_file", path, message, "name a recipe file", spot))
            return None
        try:
            with open(name, "rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            hint = _nearby(name, shipped=asked is not None)
            self.problems.append(Problem("missing_file", path, f"no file `{quoted(name)}`", hint, spot))
            return None
        except (OSError, ValueError) as error:
            said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            message = f"`{quoted(name)}` cannot be read: {said.lower()}"
            self.problems.append(Problem("unreadable_file", path, message, "name a recipe file", spot))
            return None
        if len(data) > MAX_BYTES:
            message = f"`{name}` is larger than {MAX_BYTES >> 20} MiB"
            hint = "a recipe is a few kilobytes; data goes elsewhere"
            self.problems.append(Problem("yaml_too_large", path, message, hint, Where(name, 1, 1)))
            return None
        return self._decoded(name, data)

    def _decoded(self, name: str, data: bytes) -> str | None:
        hint = "save it as UTF-8 without a byte order mark"
        if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
            message = "the file begins with a byte order mark"
            self.problems.append(Problem("bad_encoding", "", message, hint, Where(name, 1, 1)))
            return None
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            before = data[: error.start].decode("utf-8")
            line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
            shown = data.decode("utf-8", "replace").split("\n")[line - 1].rstrip("\r")
            message = f"byte 0x{data[error.start]:02x} is not UTF-8"
            self.problems.append(Problem("bad_encoding", "", message, hint, Where(name, line, column, shown)))
            return None


def shipped_recipe(name: str) -> str | None:
    """The file of a recipe that comes along, by its name with or without `.yaml`; None where there is none."""
    home = _home()
    if home is None or os.path.isabs(name):
        return None
    for each in (name, f"{name}.yaml"):
        path = os.path.normpath(os.path.join(home, each))
        if path.endswith((".yaml", ".yml")) and path.startswith(home + os.sep) and os.path.isfile(path):
            return path
    return None


def _home() -> str | None:
    """The folder of the recipes that come along, None where they are not installed."""
    found = importlib.util.find_spec(SHIPPED)
    return os.path.dirname(os.path.realpath(found.origin)) if found is not None and found.origin else None


def _shipped_names() -> list[str]:
    home = _home()
    if home is None:
        return []
    found = [os.path.join(folder, file) for folder, _, files in os.walk(home) for file in files]
    return sorted(os.path.relpath(path, home)[: -len(".yaml")] for path in found if path.endswith(".yaml"))


def _nearby(name: str, *, shipped: bool) -> str:
    if shipped:
        wanted = os.path.splitext(os.path.basename(name))[0]
        near = difflib.get_close_matches(wanted[:MAX_NAME], _shipped_names(), n=1)
        if near:
            copy = f"`wavalign recipes copy {near[0]}` brings it here"
            return f"did you mean `extends: {near[0]}`, which comes along? {copy}"
    folder = os.path.dirname(name) or "."
    if not os.path.isdir(folder):
        return f"there is no folder `{folder}`"
    near = difflib.get_close_matches(os.path.basename(name), sorted(os.listdir(folder)), n=1)
    return f"did you mean `{os.path.join(os.path.dirname(name), near[0])}`?" if near else "check the name"


def _kind(node: Node) -> str:
    if isinstance(node.value, list):
        return "a list"
    return "empty" if node.value is None else "a single value"


# --- --set ------------------------------------------------------------------------------------------------------------


def _override(root: Node, argument: str, problems: list[Problem]) -> Node:
    """Put `a.b=value` on `root`; what is wrong goes to `problems`."""
    target, equals, text = argument.partition("=")
    start = TextOrigin(SET, argument, via=SET).where(0, 0)
    parts = target.split(".")
    if not equals or "" in parts or target != target.strip() or len(parts) > MAX_DEPTH:
        message = "`--set` takes `path=value`"
        problems.append(Problem("bad_override", "", message, "e.g. `--set rollout.group_size=8`", start))
        return root
    if parts[0] == "extends":
        message = "`extends` cannot be set on the command line"
        problems.append(Problem("bad_override", "extends", message, "write it in a recipe file", start))
        return root
    path = tuple(parts)
    composed = compose(text, TextOrigin(SET, argument, via=SET, offset=len(target) + 1), prefix=path)
    problems += composed.problems
    value = composed.root
    if value is None:
        if composed.problems:
            return root
        value = Node(None, TextOrigin(SET, argument, via=SET).where(0, len(target) + 1), start, path)
    try:
        return _put(root, parts, replace(value, key=start), ())
    except _OverrideError as reason:
        problems.append(Problem("bad_override", target, str(reason), "", start))
        return root


class _OverrideError(Exception):
    """The path of an override leads nowhere."""


def _put(node: Node, parts: Sequence[str], value: Node, at: Path) -> Node:
    """`node` with `value` put at `parts` below it."""
    if not parts:
        return merge(node, replace(value, path=at))
    name, rest = parts[0], parts[1:]
    if isinstance(node.value, list):
        items = list(node.value)
        index = plain_scalar(name) if len(name) < 10 else None
        if type(index) is not int or not 0 <= index <= len(items):
            size = f"{len(items)} entries" if len(items) != 1 else "1 entry"
            raise _OverrideError(f"`{dotted(at)}` is a list of {size}; `{name}` is none of them")
        inner = (*at, index)
        fresh = [_made(rest, value, inner)] if index == len(items) else [_put(items[index], rest, value, inner)]
        return replace(node, value=[*items[:index], *fresh, *items[index + 1 :]])
    inner = (*at, name)
    if node.value is None:
        return replace(node, value={name: _made(rest, value, inner)}, where=value.key)
    if not isinstance(node.value, dict):
        raise _OverrideError(f"`{dotted(at)}` is a single value, so `{dotted(inner)}` cannot be set")
    present = node.value.get(name)
    made = _made(rest, value, inner) if present is None else _put(present, rest, value, inner)
    return replace(node, value={**node.value, name: made})


def _made(parts: Sequence[str], value: Node, at: Path) -> Node:
    """A chain of new mappings down to `value`."""
    if not parts:
        return replace(value, path=at)
    inner = _made(parts[1:], value, (*at, parts[0]))
    return Node({parts[0]: inner}, value.where, value.key, at)
