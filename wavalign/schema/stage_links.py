"""Names of stages, and what refers to them: `start`, data sources that read what a stage wrote, rewards of one."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wavalign.errors import Problem, quoted
from wavalign.schema.composer import Path, dotted
from wavalign.schema.marks import Source
from wavalign.schema.stage_kinds import KINDS, StageKind
from wavalign.schema.translation import did_you_mean

_DOES: Mapping[str | None, str] = {"dataset": "writes answers", "reward_model": "learns a reward"}
"""By what it leaves, what a stage does that leaves no weights."""


def stage_problems(source: Source) -> list[Problem]:
    """What is wrong, at its own place; the Recipe checks names and starts too, but only when all else is right."""
    stages = source.tree["stages"]
    earlier: dict[str, Mapping[str, Any]] = {}
    found: list[Problem] = []
    for index, stage in enumerate(stages if isinstance(stages, list) else ()):
        if not isinstance(stage, dict):
            continue
        found += _of_name(source, index, stage.get("name"), list(earlier))
        if isinstance(stage.get("start"), str):
            found += _of_start(source, index, stage, earlier)
        for path in _references(stage.get("data"), ("stages", index, "data"), _kind(stage).headings):
            found += _of_source(source, path, stage, earlier)
        rewards = stage.get("rewards") if _kind(stage).rewards else None
        for path in _named(rewards, ("stages", index, "rewards")):
            found += _of_reward(source, path, stage, earlier)
        if isinstance(stage.get("name"), str):
            earlier[stage["name"]] = stage
    # A mistake in a body is one, whatever the rounds' names are.
    return list({(problem.path, problem.where): problem for problem in reversed(found)}.values())[::-1]


def _of_name(source: Source, index: int, name: object, seen: Sequence[str]) -> Iterator[Problem]:
    if not isinstance(name, str):
        return
    path: Path = ("stages", index, "name")
    if name in seen:
        yield _problem(source, path, f"two stages are named `{quoted(name)}`", "rename one of them")
    elif same := {each.casefold(): each for each in seen}.get(name.casefold()):
        message = f"the stages `{quoted(name)}` and `{quoted(same)}` differ in capital letters alone"
        yield _problem(source, path, message, "rename one of them: their folders may be one on some disks")


def _of_start(
    source: Source, index: int, stage: Mapping[str, Any], earlier: Mapping[str, Mapping[str, Any]]
) -> Iterator[Problem]:
    path: Path = ("stages", index, "start")
    start = str(stage["start"])
    left = [name for name, each in earlier.items() if _kind(each).is_start]
    if start not in earlier:
        message = f"`{quoted(start)}` is not an earlier stage"
        yield _problem(source, path, message, did_you_mean(start, left) or _earlier(left, earlier))
    elif start not in left:
        what = _DOES.get(_kind(earlier[start]).leaves, "measures")
        message = f"stage `{quoted(start)}` {what} and leaves no weights to start from"
        hint = f"leave `start` out for the last weights before, or name one of: {_listed(left)}"
        yield _problem(source, path, message, hint)
    else:
        yield from _one_round(source, path, stage, earlier[start])


def _earlier(left: Sequence[str], earlier: Mapping[str, object]) -> str:
    return f"earlier stages: {_listed(left)}" + ("" if earlier else ", this is the first")


def _of_source(
    source: Source, path: Path, stage: Mapping[str, Any], earlier: Mapping[str, Mapping[str, Any]]
) -> Iterator[Problem]:
    """A data source at `path` that names a stage."""
    name = str(_at(source.tree, path))
    written = [each for each, other in earlier.items() if _kind(other).leaves == "dataset"]
    if name not in written:
        what = "writes no answers" if name in earlier else "is not an earlier stage"
        hint = did_you_mean(name, written) or f"earlier stages that write data: {_listed(written)}"
        yield _problem(source, path, f"`{quoted(name)}` {what}", hint)
    else:
        yield from _one_round(source, path, stage, earlier[name])


def _of_reward(
    source: Source, path: Path, stage: Mapping[str, Any], earlier: Mapping[str, Mapping[str, Any]]
) -> Iterator[Problem]:
    """A reward at `path` that names a stage."""
    name = str(_at(source.tree, path))
    learned = [each for each, other in earlier.items() if _kind(other).leaves == "reward_model"]
    if name in learned:
        yield from _one_round(source, path, stage, earlier[name])
        return
    what = "leaves no reward model" if name in earlier else "is not an earlier stage"
    hint = did_you_mean(name, learned) or f"earlier `reward_model` stages: {_listed(learned)}"
    yield _problem(source, path, f"`{quoted(name)}` {what}", hint)


def _one_round(source: Source, path: Path, stage: Mapping[str, Any], named: Mapping[str, Any]) -> Iterator[Problem]:
    """From outside, rounds that may end early have no numbers."""
    theirs, ours = named.get("round"), stage.get("round")
    if not isinstance(theirs, dict) or not theirs.get("stop_early"):
        return
    if isinstance(ours, dict) and ours.get("repeat") == theirs.get("repeat"):
        return
    if theirs.get("number") != theirs.get("of"):
        title = f"{theirs.get('repeat')}.{str(named.get('name')).split('.', 1)[-1]}"
        message = f"`{quoted(str(named.get('name')))}` may not be the best round, and may never be done"
        yield _problem(source, path, message, f"write `{quoted(title)}`: that of the best round")


def _references(value: object, path: Path, headings: frozenset[str]) -> Iterator[Path]:
    """Where sources below the headings of `data` name a stage."""
    if not isinstance(value, dict):
        return
    for heading in value:
        if heading in headings:
            yield from _named(value[heading], (*path, heading))


def _named(value: object, path: Path) -> Iterator[Path]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _named(item, (*path, index))
    elif isinstance(value, dict) and "type" in value:
        if isinstance(value.get("stage"), str):
            yield (*path, "stage")
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _named(item, (*path, name))


def _kind(stage: Mapping[str, Any]) -> StageKind:
    """Of its kind; of one that is not known the most that a stage may be."""
    return KINDS.get(str(stage.get("type", "train")), KINDS["train"])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{quoted(name)}`" for name in names) or "none"


def _at(tree: Any, path: Path) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def _problem(source: Source, path: Path, message: str, hint: str) -> Problem:
    return Problem("bad_value", dotted(source.written[path]), message, hint, source.marks[path])
