"""Spoil recipes at random, in the ways people and their tools do."""

import copy
import random
from typing import Any

import yaml

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 7, 10**6, 10**9, 2**31, 2**63 - 1, -(2**63), 1e-320, 1e300, -0.0, 0.5, 1.5),
    *("", " ", "x", "0", "-1", "null", "true", "auto", "../..", "/", "/dev/null", "~", "s3://", "://", "file:///x"),
    *(
        "${env:NO_SUCH}",
        "${env:",
        "é" * 40,
        "\u202e",
        "\ud7ff",
        "👍",
        "a" * 5000,
        "x\ny",
        "%s",
        "{}",
        "gate",
        "1 - gate",
    ),
    *([], [[]], {}, {"type": "x"}, {"a": {}}, [1, 2, 3], ["x", None], {"type": None}, {"type": "vita"}, {"": 1}),
)
LINES = (
    "<<: *a", "? [x]\n: y", "&a x: *a", "x: !!python/object:os.system {}", "x: !replace {}", "x: |\n  y", "- x",
    "x: .nan", "x: .inf", "x: 0x1f", "x: 1_000", "x: 2001-01-01", "x: yes", "'x", "{", "%YAML 1.1", "---", "\x00",
    "x: 'a\u2028b'", "x: \"\\ud800\"", "x: *nothing", "x: " + "[" * 200, "\ufeffx: 1",
)  # fmt: skip


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values below `tree`."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    found = []
    for key, value in items:
        found += [(*path, key), *places(value, (*path, key))]
    return found


def mutated(tree: dict[str, Any], rng: random.Random) -> str:
    """The text of a recipe after one to three mutations."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _mutate(tree, rng)
    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    if rng.random() < 0.15:
        text = _spoilt(text, rng)
    return text


def _mutate(tree: dict[str, Any], rng: random.Random) -> None:
    known = places(tree)
    if not known:
        return
    path = rng.choice(known)
    holder: Any = tree
    for part in path[:-1]:
        holder = holder[part]
    key, odd = path[-1], copy.deepcopy(rng.choice(ODD))
    how = rng.choice(("delete", "odd", "odd", "odd", "nest", "wrap", "rename", "add", "copy", "scale"))
    value = holder[key]
    if how == "delete":
        del holder[key]
    elif how == "odd":
        holder[key] = odd
    elif how == "nest":
        holder[key] = {"type": value, "params": value}
    elif how == "wrap":
        holder[key] = [value, value]
    elif how == "scale":
        holder[key] = value * rng.choice((-1, 10**7, 0)) if type(value) in (int, float) else str(value)
    elif isinstance(holder, dict):
        if how == "rename":
            holder[rng.choice((str(key) + "s", "x", "type", "ü", "a.b", "a/b"))] = holder.pop(key)
        elif how == "add":
            holder[rng.choice(("x", "type", "params", "weight", "steps", "name"))] = odd
        else:
            other = rng.choice(known)
            source: Any = tree
            for part in other:
                source = source[part] if isinstance(source, dict | list) and _has(source, part) else None
            holder[key] = copy.deepcopy(source)


def _has(tree: Any, part: Any) -> bool:
    return part in tree if isinstance(tree, dict) else isinstance(part, int) and part < len(tree)


def _spoilt(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    how = rng.choice(("line", "cut", "double", "indent"))
    if how == "line":
        lines.insert(at, rng.choice(LINES))
    elif how == "cut":
        return text[: rng.randrange(len(text) + 1)]
    elif how == "double":
        lines.insert(at, lines[at])
    else:
        lines[at] = " " + lines[at]
    return "\n".join(lines)
