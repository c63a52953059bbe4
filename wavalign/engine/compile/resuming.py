"""What may differ between the plan a run was begun by and the one it is resumed by.

Free are the keys of `runtime` in `FREE_RUNTIME`, a reward's `timeout` and the description. On how many processes a run
goes on, and by which engine, may change, too: a checkpoint is read by any number of them. The `steps` of the stage the
run stands in may be raised. What a person accepts by name (`reward.answer`, `metric.heard`) may have other options or a
mended plugin file. Everything else is another run.
"""

import inspect
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, final

from wavalign.engine.compile.components import components
from wavalign.engine.compile.plan import Plan, learned
from wavalign.plugins.registry import Registry
from wavalign.schema.runtime import EngineSection

MOST_LINES = 12
Key = tuple[str | int, ...]
_ABSENT = object()
_DERIVED = ("graph", "geometry", "memory", "deepspeed", "terms")
"""What a stage's plan says of its sections in other words."""


@final
class PlanChanges:
    """The differences of two plans, those that a resume allows taken out."""

    def __init__(self, old: Mapping[str, Any], new: Plan, *, accepted: Collection[str], stage: int) -> None:
        """`old` is the content of plan.json; `stage` is the index of the stage that the run stands in."""
        self._old, self._new, self._accepted, self._stage = old, new, frozenset(accepted), stage
        self._known = {each.label for each in components(new)}
        self._names = [str(each["name"]) for each in old["stages"]]
        found = list(_differences(learned(old), learned(new.model_dump(mode="json")), ()))
        self._raised = any(self._is_raise(key, before, after) for key, before, after in found)
        self.refused = [self._line(*each) for each in found if not self._is_free(*each)]
        """One line for each difference, `path: old -> new`."""
        if any(not self._is_derived(key) for key, _, _ in found):
            self.refused = [
                self._line(*each) for each in found if not (self._is_free(*each) or self._is_derived(each[0]))
            ]

    @property
    def unknown(self) -> list[str]:
        """Accepted names that the plan does not have."""
        return sorted(self._accepted - self._known)

    @property
    def raised(self) -> bool:
        """Whether the stage goes on longer than was planned."""
        return self._raised

    @property
    def moved(self) -> list[str]:
        """On what the run goes on that it was not on before, in words; empty where that is the same."""
        runtime, engine = self._old["runtime"], self._new.runtime.engine
        was, now = self._old["processes"], self._new.processes
        before = EngineSection.model_validate(runtime["engine"])
        names = (engine_name(before), engine_name(engine))
        ranks = [f"{now} process{'es' * (now > 1)} (it had {was})"] * (now != was)
        return ranks + [f"{names[1]} (it had {names[0]})"] * (before != engine)

    def text(self) -> str:
        """The refused differences, at most `MOST_LINES` of them."""
        more = [f"and {len(self.refused) - MOST_LINES} more"] if len(self.refused) > MOST_LINES else []
        return "\n  ".join([*self.refused[:MOST_LINES], *more])

    # --- what is allowed ----------------------------------------------------------------------------------------------

    def _is_free(self, key: Key, before: Any, after: Any) -> bool:
        if self._is_raise(key, before, after):
            return True
        match key:
            case ("stages", int(), "first_step") if self._raised:
                return True
            case ("processes",) | ("runtime", "processes") | ("runtime", "engine", *_):
                return True
            case ("stages", int(), "stage", "rewards", name, *_):
                return f"reward.{name}" in self._accepted
            case ("stages", int(), "stage", "evaluation", "metrics", name, *_):
                return f"metric.{name}" in self._accepted
            case ("plugin_digests", int() as index):
                return not self._unaccepted(self._new.plugins[index])
        return False

    def _is_raise(self, key: Key, before: Any, after: Any) -> bool:
        if key != ("stages", self._stage, "stage", "steps"):
            return False
        return isinstance(before, int) and isinstance(after, int) and after > before

    @staticmethod
    def _is_derived(key: Key) -> bool:
        return len(key) > 2 and key[0] == "stages" and key[2] in _DERIVED

    def _unaccepted(self, file: str) -> list[str]:
        """What the plan uses of a plugin file and nobody accepted."""
        registry = Registry(self._new.plugins)
        path = Path(file).resolve()
        used = {
            each.label
            for each in components(self._new)
            if Path(inspect.getfile(registry.get(each.kind, each.component.type))).resolve() == path
        }
        return sorted(label for label in used - self._accepted if not label.startswith("tracker."))

    # --- words --------------------------------------------------------------------------------------------------------

    def _line(self, key: Key, before: Any, after: Any) -> str:
        if key[0] == "plugin_digests" and len(key) == 2:
            file = self._new.plugins[int(key[1])]
            return f"{file} was edited; it holds {', '.join(self._unaccepted(file))}"
        return f"{self._path(key)}: {_shown(before)} -> {_shown(after)}"

    def _path(self, key: Key) -> str:
        """As the recipe has it."""
        parts = [str(part) for part in key if part != "params"]
        if parts[0] == "stages" and len(parts) > 2 and int(parts[1]) < len(self._names):
            name, rest = self._names[int(parts[1])], parts[3:] if parts[2] == "stage" else parts[2:]
            parts = rest if len(self._names) == 1 else ["stages", name, *rest]
        return ".".join(parts)


def engine_name(engine: EngineSection) -> str:
    """An engine and its options, for people."""
    if engine.type == "plain":
        return "the plain engine"
    said = engine.model_dump(exclude_defaults=True, exclude={"type", "zero"})
    return f"ZeRO {engine.zero}" + (f" with {', '.join(sorted(said))}" if said else "")


def _differences(old: Any, new: Any, key: Key) -> Iterator[tuple[Key, Any, Any]]:
    """Leaves that differ, with where they stand."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(name, _ABSENT), new.get(name, _ABSENT), (*key, name))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differences(before, after, (*key, index))
    elif old != new:
        yield key, old, new


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "(absent)"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
