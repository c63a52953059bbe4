"""A recipe file to a Recipe, or everything that is wrong with it at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, final

from pydantic import BaseModel, ValidationError

from wavalign.errors import Problem, RecipeError
from wavalign.schema.anchoring import anchor
from wavalign.schema.base import Tree
from wavalign.schema.composer import Node, Path, dotted
from wavalign.schema.marks import Source, in_file_order, locate, merge, source_of
from wavalign.schema.recipe import Recipe
from wavalign.schema.rendering import render_problems
from wavalign.schema.rounds import Entry, repeats, unrolled
from wavalign.schema.salvage import NOTHING_BROKEN, Broken, salvage
from wavalign.schema.source import scan_source
from wavalign.schema.stage import Repeat, Stage, StageSections
from wavalign.schema.stage_links import stage_problems
from wavalign.schema.translation import conversion_problems, did_you_mean, problems_from_validation

__all__ = [
    "LoadedRecipe",
    "load_recipe",
    "names_of",
    "problems_from_validation",
    "read_params",
    "read_recipe",
    "render_problems",
]

Model = TypeVar("Model", bound=BaseModel)

SHARED = frozenset(StageSections.model_fields)
TOP_LEVEL = (*(name for name in Recipe.model_fields if name != "stages"), *StageSections.model_fields, "stages")
DEFAULT_STAGE = "train"


@final
@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A valid recipe and where each of its values stands."""

    recipe: Recipe
    source: Source
    """With stages merged: paths are those of `recipe`, marks point to where a person wrote it."""
    broken: Broken = NOTHING_BROKEN
    """What `recipe` lacks of what was written, because it is wrong."""
    problems: tuple[Problem, ...] = ()
    """What is wrong with that."""


def load_recipe(path: str, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read, merge and validate a recipe; raises RecipeError with every problem found."""
    loaded = read_recipe(path, overrides)
    if loaded.problems:
        raise RecipeError(loaded.problems)
    return loaded


def read_recipe(path: str, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Like `load_recipe`, but with mistakes gives what is whole; raises RecipeError where that is too little."""
    scanned = scan_source(path, overrides)
    source = merge_stages(scanned)
    recipe, problems = _validated(Recipe, source.tree, (), source)
    problems = [*_repeat_problems(scanned), *stage_problems(source), *_placed(problems, source, scanned)]
    broken = {problem.path for problem in scanned.problems}  # their values became null, which is no second problem
    problems = [problem for problem in problems if not _lies_in(problem.path, broken)]
    problems += scanned.problems
    if recipe is not None and not problems:
        return LoadedRecipe(recipe, source)
    found = in_file_order(problems, names_of(source))
    spoilt = [each for each in source.marks if source.dotted(each) in broken]
    rest, taken = salvage(source, spoilt, lambda tree: anchor(Recipe, tree, source))
    if rest is None:
        raise RecipeError(found)
    return LoadedRecipe(rest, source, taken, found)


def read_params(
    model: type[Model], params: Mapping[str, Any], *, prefix: Path, source: Source, beside: Sequence[str] = ()
) -> tuple[Model | None, list[Problem]]:
    """Make a plugin's Params of the options at `prefix`: paths anchored, problems as `load_recipe` reports them.

    `beside` names the component's own keys (`type`, `weight`, ...), for suggestions.
    """
    return _validated(model, dict(params), prefix, source, beside=beside)


def _validated(
    model: type[Model], tree: Tree, prefix: Path, source: Source, *, beside: Sequence[str] = ()
) -> tuple[Model | None, list[Problem]]:
    anchored = anchor(model, tree, source, prefix)
    problems = conversion_problems(model, tree, prefix, source)
    try:
        made = model.model_validate(anchored)
    except ValidationError as error:
        known = {problem.path for problem in problems}
        found = problems_from_validation(error, prefix, model, source, beside=beside)
        return None, [*problems, *(problem for problem in found if problem.path not in known)]
    return (None if problems else made), problems


# --- stages -----------------------------------------------------------------------------------------------------------


def merge_stages(source: Source) -> Source:
    """Put each stage's sections over the shared ones; without `stages`, one stage is made of the shared ones.

    The stages of a `repeat` stand there once for every round. Nodes keep their marks and the path they were written at,
    so one mistake in a shared section stays one problem.
    """
    items = source.root.value
    assert isinstance(items, dict)
    shared = {name: item for name, item in items.items() if name in SHARED}
    listed = items.get("stages")
    entries = listed.value if listed is not None else None
    if listed is None:
        stages = Node([_only_stage(source.root, shared)], source.root.where, source.root.key, ())
    elif isinstance(entries, list):
        stages = replace(listed, value=[_merged(entry, shared) for entry in unrolled(entries)])
    else:
        stages = listed
    top = {name: item for name, item in items.items() if name not in SHARED}
    merged = source_of(replace(source.root, value={**top, "stages": stages}), path=source.path, files=source.files)
    return replace(merged, problems=source.problems)


def _only_stage(root: Node, shared: dict[str, Node]) -> Node:
    name = Node(DEFAULT_STAGE, root.where, root.key, ("name",))
    return Node({"name": name, **shared}, root.where, root.key, ())


def _merged(entry: Entry, shared: dict[str, Node]) -> Node:
    stage = entry.node
    if not isinstance(stage.value, dict):
        return stage
    base = Node(shared, stage.where, stage.key, stage.path)
    return entry.finished(merge(base, replace(stage, replace=False)))


def _repeat_problems(scanned: Source) -> list[Problem]:
    """What is wrong with repetitions themselves; their stages are looked at one by one."""
    items = scanned.root.value
    listed = items.get("stages") if isinstance(items, dict) else None
    found: list[Problem] = []
    for index, keys in repeats(listed.value if listed is not None and isinstance(listed.value, list) else ()):
        path: Path = ("stages", index)
        own = {name: item for name, item in scanned.tree["stages"][index].items() if name != "stages"}
        found += _validated(Repeat, own, path, scanned, beside=("stages",))[1]
        body = keys.get("stages")
        if body is None or not isinstance(body.value, list) or not body.value:
            message, where = "a `repeat` has no `stages`", scanned.keys[path] if body is None else body.where
            hint = "add e.g. `stages: [{name: sample, type: generate}, {name: train}]`: what every round does"
            found.append(Problem("missing_key", dotted((*path, "stages")), message, hint, where))
        for inner, _ in repeats(body.value if body is not None and isinstance(body.value, list) else ()):
            message = "a `repeat` within a `repeat`"
            place: Path = (*path, "stages", inner)
            hint = "rounds have single stages; write the inner ones out"
            found.append(Problem("bad_value", dotted(place), message, hint, scanned.marks[place]))
    return found


def _placed(problems: Sequence[Problem], source: Source, scanned: Source) -> list[Problem]:
    """Adjust what the merging of stages hides: what may stand at the top level, and what all stages lack."""
    reported: list[Problem] = []
    for problem in problems:
        if problem.path == "" and problem.code == "bad_value":
            continue  # the Recipe's own check of stages; `stage_problems` says it better
        if problem.code == "unknown_key":
            reported.append(_unknown_at_its_level(problem))
        elif problem.code == "missing_key":
            reported.append(_missing_from_all(problem, source, scanned))
        else:
            reported.append(problem)
    return reported


def _unknown_at_its_level(problem: Problem) -> Problem:
    parts = problem.path.split(".")
    name = parts[-1]
    if len(parts) == 1:
        in_stage = name in Stage.model_fields
        hint = "it belongs to an entry of `stages`" if in_stage else did_you_mean(name, TOP_LEVEL)
        return replace(problem, hint=hint or f"known keys: {', '.join(f'`{key}`' for key in TOP_LEVEL)}")
    if len(_in_stage(parts)) == 1 and name in Recipe.model_fields:
        return replace(problem, hint="it belongs to the top level of the recipe, for all stages")
    return problem


def _missing_from_all(problem: Problem, source: Source, scanned: Source) -> Problem:
    """A key that the shared section lacks too is missing there, once, and not in each stage."""
    shared: Path = tuple(_in_stage(problem.path.split(".")))
    if not shared or shared[0] not in SHARED:
        return problem
    found, missing = locate(scanned.tree, shared)
    if len(missing) != 1 or (len(shared) == 1 and _somewhere(source.tree["stages"], str(shared[0]))):
        return problem
    message, hint = problem.message, problem.hint
    if len(shared) == 1:
        message = f"the recipe has no `{shared[0]}`"
        hint += ", at the top level or in each stage"
    return replace(problem, path=dotted(shared), message=message, hint=hint, where=scanned.keys[found])


def _in_stage(parts: Sequence[str]) -> Sequence[str]:
    """A path from its stage on, be it one of a repetition; empty for one that is in no stage."""
    start = 0
    while len(parts) > start + 2 and parts[start] == "stages" and parts[start + 1].isdecimal():
        start += 2
    return parts[start:] if start else ()


def _somewhere(stages: Any, name: str) -> bool:
    return isinstance(stages, list) and any(isinstance(stage, dict) and name in stage for stage in stages)


def _lies_in(path: str, places: set[str]) -> bool:
    parts = path.split(".")
    return any(".".join(parts[:count]) in places for count in range(1, len(parts) + 1))


def names_of(source: Source) -> list[str]:
    """Files as marks name them, the recipe first."""
    return list(dict.fromkeys([source.path, *(spot.file for spot in source.marks.values())]))
