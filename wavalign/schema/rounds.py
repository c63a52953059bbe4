"""Entries of `stages` as single stages: the body of a `repeat` once for every round, under names of its own.

References within the body (`start`, `stage` of a data source or a reward) name a stage of the same round, references
from outside (`REPEAT.STAGE`) that of the last round; with `stop_early` a run takes the best round in its place.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

from wavalign.schema.bounds import MOST_ROUNDS
from wavalign.schema.composer import Node, Path

FALLBACK = "round"
"""Name of the rounds of a repetition that has none, or none that can be read."""


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """One stage to be, and what the names in it stand for."""

    node: Node
    name: Node | None = None
    """Its name where a round gives it one."""
    round: Node | None = None
    """The section that says which round it is of."""
    names: Mapping[str, str] = field(default_factory=dict)
    """References as they are written -> names of stages."""

    def finished(self, merged: Node) -> Node:
        """`merged`, the stage with the shared sections, with its name, its round and its references."""
        if not isinstance(merged.value, dict):
            return merged
        items = dict(merged.value)
        if self.name is not None:
            items["name"] = self.name
        if self.round is not None:
            items["round"] = self.round
        if "start" in items:
            items["start"] = _named(items["start"], self.names)
        for section in ("data", "rewards"):
            if section in items:
                items[section] = _sources(items[section], self.names)
        return replace(merged, value=items)


def repeats(entries: Sequence[Node]) -> Iterator[tuple[int, dict[str, Node]]]:
    """Index and keys of every entry that is a repetition."""
    for index, entry in enumerate(entries):
        if isinstance(entry.value, dict) and "repeat" in entry.value:
            yield index, entry.value


def unrolled(entries: Sequence[Node]) -> list[Entry]:
    """The entries of `stages`, repetitions as their rounds; one that is malformed is done as far as it can be read."""
    found, outside = list[Entry](), dict[str, str]()
    bodies = dict(repeats(entries))
    for index, entry in enumerate(entries):
        if index in bodies:
            found += _rounds(entry, bodies[index], ("stages", index), outside)
        else:
            found.append(Entry(replace(entry, path=("stages", index)), names=dict(outside)))
    return found


def _rounds(entry: Node, items: Mapping[str, Node], path: Path, outside: dict[str, str]) -> list[Entry]:
    """All rounds of one repetition; `outside` learns what its stages are called from outside."""
    listed = items.get("stages")
    body = listed.value if listed is not None and isinstance(listed.value, list) else []
    title = _text(items.get("name")) or FALLBACK
    count = items["repeat"].value
    count = count if type(count) is int and 1 <= count <= MOST_ROUNDS else 1
    found, before = list[Entry](), dict(outside)
    for number in range(1, count + 1):
        own = {name: f"{title}-{number}.{name}" for name in filter(None, map(_own_name, body))}
        about = _round(entry, items, title, number=number, of=count)
        for index, node in enumerate(body):
            if isinstance(node.value, dict) and "repeat" in node.value:
                continue  # rounds within rounds are refused
            stage = replace(node, path=(*path, "stages", index))
            name = _own_name(node)
            given = node.value["name"] if name is not None and isinstance(node.value, dict) else None
            renamed = None if given is None or name is None else replace(given, value=own[name])
            found.append(Entry(stage, renamed, about, {**before, **own}))
        outside |= {f"{title}.{name}": full for name, full in own.items()}
    return found


def _round(entry: Node, items: Mapping[str, Node], title: str, *, number: int, of: int) -> Node:
    """The section `round` of a stage."""

    def said(key: str, value: str | int) -> Node:
        return replace(items.get(key, entry), value=value)

    parts = {"repeat": said("name", title), "number": said("repeat", number), "of": said("repeat", of)}
    if "stop_early" in items:
        parts["stop_early"] = items["stop_early"]
    return replace(entry, value=parts, replace=False)


def _own_name(stage: Node) -> str | None:
    return (_text(stage.value.get("name")) or None) if isinstance(stage.value, dict) else None


def _text(node: Node | None) -> str | None:
    return node.value if node is not None and isinstance(node.value, str) else None


def _named(node: Node, names: Mapping[str, str]) -> Node:
    return replace(node, value=names.get(node.value, node.value)) if isinstance(node.value, str) else node


def _sources(node: Node, names: Mapping[str, str]) -> Node:
    """Data sources or rewards below `node` with the stages that they name."""
    if isinstance(node.value, list):
        return replace(node, value=[_sources(item, names) for item in node.value])
    if not isinstance(node.value, dict):
        return node
    if "type" in node.value:
        return replace(node, value={k: _named(v, names) if k == "stage" else v for k, v in node.value.items()})
    return replace(node, value={key: _sources(item, names) for key, item in node.value.items()})
