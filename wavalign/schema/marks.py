"""A tree that knows where each of its values stands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from wavalign.errors import Problem, Where
from wavalign.schema.base import Tree
from wavalign.schema.composer import Node, Path, dotted

__all__ = [
    "SET",
    "Path",
    "Source",
    "holds",
    "in_file_order",
    "locate",
    "merge",
    "names_itself",
    "source_of",
]

SET = "--set"
"""What stands for the file of a value that the command line gives."""


@final
@dataclass(frozen=True, slots=True)
class Source:
    """A tree and, for every path in it, where that stands."""

    path: str
    """The recipe, as named by whoever asked for it."""
    tree: Tree
    marks: Mapping[Path, Where]
    """Where each value stands; `()` is the root."""
    keys: Mapping[Path, Where]
    """Where the key of each value stands; that of a list entry is the entry itself."""
    written: Mapping[Path, Path]
    """Path in `tree` -> path as a person wrote it; they differ once stages are merged."""
    files: tuple[str, ...]
    """Absolute paths of all files read: the recipe, what it extends, what that extends, ..."""
    root: Node
    """The same tree with its nodes, for merging."""
    problems: tuple[Problem, ...] = ()
    """What was wrong with values that could be skipped; `read_source` raises when there are any."""

    def where(self, path: Path, *, key: bool = False) -> Where:
        """The place of `path`, or of its nearest ancestor that exists; of its key with `key=True`.

        `path` may be one of the validated recipe, with the steps that short forms leave out (`params`, the `0` of a
        single source, `heldout`).
        """
        found, missing = locate(self.tree, path)
        return self.keys[found] if key or missing else self.marks[found]

    def dotted(self, path: Path) -> str:
        """`path` as a person wrote it: what a stage shares with all others is found at the top level."""
        found, missing = locate(self.tree, path)
        return dotted((*self.written[found], *missing))


def source_of(root: Node, *, path: str, files: tuple[str, ...]) -> Source:
    """Spread a node tree out into plain values and marks."""
    marks: dict[Path, Where] = {}
    keys: dict[Path, Where] = {}
    written: dict[Path, Path] = {}

    def spread(node: Node, at: Path, wrote: Path) -> Any:
        marks[at], keys[at], written[at] = node.where, node.key, wrote
        if isinstance(node.value, dict):
            return {name: spread(item, (*at, name), item.path) for name, item in node.value.items()}
        if isinstance(node.value, list):
            # Nobody wrote the list around a recipe's only stage, so nobody wrote that stage's index either.
            # Stages know where they were written: those of a repetition stand in the tree once for every round.
            own = not wrote or at == ("stages",)
            return [spread(item, (*at, i), item.path if own else (*wrote, i)) for i, item in enumerate(node.value)]
        return node.value

    tree = spread(root, (), ())
    return Source(path, tree, marks, keys, written, files, root)


def locate(tree: Any, path: Path) -> tuple[Path, Path]:
    """Split `path` into what exists, as it stands in `tree`, and what does not."""
    found: Path = ()
    value = tree
    for index, part in enumerate(path):
        following = path[index + 1] if index + 1 < len(path) else None
        if holds(value, part) and not names_itself(value, part, following):
            found, value = (*found, part), value[part]
        elif isinstance(value, Mapping) and set(value) == {"type", "params"} and holds(value["params"], part):
            found, value = (*found, "params", part), value["params"][part]
        elif not _left_out(value, part, following):
            return found, path[index:]
    return found, ()


def holds(value: Any, part: str | int) -> bool:
    """Whether `value` is a list or mapping with `part` in it."""
    if isinstance(value, list):
        return isinstance(part, int) and 0 <= part < len(value)
    return isinstance(value, Mapping) and part in value


def names_itself(value: Any, part: str | int, following: str | int | None) -> bool:
    """Whether `value` is a component standing alone where components by name are expected, `part` being that name."""
    alone = isinstance(value, Mapping) and "type" in value and isinstance(part, str) and isinstance(following, int)
    return alone and not isinstance(value.get(part), list)


def _left_out(value: Any, part: str | int, following: str | int | None) -> bool:
    """Whether a short form may leave `part` out: `params`, the index of an only entry, the name of an only split."""
    if isinstance(part, int):
        return part == 0 and isinstance(value, Mapping)
    if isinstance(value, Mapping) and part == "params":
        return True
    return isinstance(following, int) and isinstance(value, list | Mapping)


def in_file_order(problems: Sequence[Problem], names: Sequence[str]) -> tuple[Problem, ...]:
    """Sort by file (`names` first, in that order), line and column; drops repetitions."""
    order = {name: index for index, name in enumerate(names)}

    def place(problem: Problem) -> tuple[int, int, int]:
        spot = problem.where
        return (order.get(spot.file, len(order)), spot.line, spot.column) if spot else (-1, 0, 0)

    return tuple(sorted(dict.fromkeys(problems), key=place))


def merge(base: Node, over: Node) -> Node:
    """Put `over` on `base`: mappings merge deeply unless `over` is empty or says `!replace`, anything else replaces."""
    if over.replace or not over.value or not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    items = dict(base.value)
    for name, item in over.value.items():
        items[name] = merge(items[name], item) if name in items else item
    return replace(over, value=items)
