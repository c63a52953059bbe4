"""What a recipe with mistakes leaves whole, so that the passes behind the schema can look at it in the same round.

What is wrong is taken out, key by key; where it is needed, a placeholder stands in. `Broken` remembers what was taken,
so that nothing is said of a part whose neighbour is missing only here.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, final

from pydantic import ValidationError

from wavalign.errors import Problem
from wavalign.schema.base import Tree
from wavalign.schema.composer import Path
from wavalign.schema.marks import Source, locate
from wavalign.schema.recipe import Recipe
from wavalign.schema.shapes import Option, fits, leaves

ROUNDS = 100
"""Each takes something out; a recipe that needs more has little to say."""


@final
@dataclass(frozen=True, slots=True)
class Broken:
    """What was taken out of a recipe."""

    paths: frozenset[Path] = frozenset()
    """In the tree whose stages are merged."""
    written: frozenset[str] = frozenset()
    """Dotted, as a person wrote them."""

    def sections(self, stage: int) -> frozenset[str]:
        """Sections of a stage, and of the recipe, that lack something."""
        own = {str(path[2]) for path in self.paths if path[:2] == ("stages", stage) and len(path) > 2}
        return frozenset(own | {str(path[0]) for path in self.paths if path[0] != "stages"})

    def holds(self, problem: Problem) -> bool:
        """Whether a problem lies in what was taken out, or in what holds it."""
        parts = problem.path.split(".")
        return any(".".join(parts[:count]) in self.written for count in range(1, len(parts) + 1))


NOTHING_BROKEN = Broken()


def salvage(source: Source, spoilt: Iterable[Path], anchored: Callable[[Tree], Tree]) -> tuple[Recipe | None, Broken]:
    """The recipe without what is wrong in `source`, and what that was; no recipe where too little is left.

    `spoilt` are values that could not be read and became null; `anchored` makes paths absolute.
    """
    pruner = _Pruner(copy.deepcopy(source.tree))
    for path in (*spoilt, *_converted(source.tree)):
        if path:  # a problem of the whole, such as an override that cannot be read, spoils no value
            pruner.take(path)
    for _ in range(ROUNDS):
        try:
            recipe = Recipe.model_validate(anchored(pruner.tree))
        except ValidationError as error:
            before = len(pruner.taken)
            for place, kind in _causes(error):
                pruner.mend(*locate(pruner.tree, place), kind)
            if pruner.hopeless or len(pruner.taken) == before:
                return None, NOTHING_BROKEN
            continue
        taken = frozenset(pruner.taken)
        return recipe, Broken(taken, frozenset(source.dotted(path) for path in taken))
    return None, NOTHING_BROKEN


def _causes(error: ValidationError) -> list[tuple[Path, str]]:
    """Where something is wrong; a list is also said to be too short when only its entries are wrong."""
    places = [(each["loc"], each["type"]) for each in error.errors(include_url=False)]
    return [
        (place, kind)
        for place, kind in places
        if kind != "too_short"
        or not any(len(other) > len(place) and other[: len(place)] == place for other, _ in places)
    ]


def _converted(tree: Tree) -> list[Path]:
    """Values that pydantic would convert silently, which are mistakes here."""
    return [path for path, value, accepted in leaves((Option(Recipe),), tree, ()) if not fits(accepted, value)]


@final
class _Pruner:
    """Takes values out of a tree."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.taken: set[Path] = set()
        self.hopeless = False

    def mend(self, found: Path, missing: Path, kind: str) -> None:
        """Take out what an error is about, or put in what it misses."""
        if missing and kind == "missing" and self._placeholder((*found, missing[0])):
            return
        if not found:
            self._unlink()  # the recipe's own rule between its stages
        else:
            self.take(found)

    def take(self, path: Path) -> None:
        """Take the value at `path` out, together with the list it stands in: others would move up."""
        while path and any(isinstance(part, int) for part in path[2:]):
            path = path[: next(i for i, part in enumerate(path) if i >= 2 and isinstance(part, int))]
        if len(path) <= 2 and path[:1] == ("stages",):
            self.hopeless = True
            return
        if self._placeholder(path):
            return
        holder = _at(self.tree, path[:-1])
        if isinstance(holder, dict) and path[-1] in holder:
            del holder[path[-1]]
            self.taken.add(path)

    def _placeholder(self, path: Path) -> bool:
        """Put something in for what a recipe cannot be without; False where it can."""
        value = _placeholder_for(path)
        holder = _at(self.tree, path[:-1])
        if value is None or not isinstance(holder, dict):
            return False
        again = path in self.taken
        holder[path[-1]] = value
        self.taken.add(path)
        self.hopeless = self.hopeless or again
        return True

    def _unlink(self) -> None:
        """Give stages names of their own and let each start from the one before."""
        for index, stage in enumerate(self.tree["stages"]):
            stage["name"] = f"stage-{index}"
            stage.pop("start", None)
            self.taken |= {("stages", index, "name"), ("stages", index, "start")}


def _placeholder_for(path: Path) -> Any:
    if path == ("name",):
        return "recipe"
    if len(path) == 3 and path[0] == "stages":
        return {"name": f"stage-{path[1]}", "model": {"architecture": {"type": "?"}}}.get(str(path[2]))
    if len(path) == 4 and path[2:] == ("model", "architecture"):
        return {"type": "?"}
    return None


def _at(tree: Any, path: Path) -> Any:
    for part in path:
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            return None
    return tree
