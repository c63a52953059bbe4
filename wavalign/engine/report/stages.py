"""The stages of a plan as the report knows them: their steps, their round, what they left."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import final

from wavalign.engine.report.outcomes import number
from wavalign.engine.report.reading import Json, objects_in, read_object, whole
from wavalign.engine.state.folder import RunFolder
from wavalign.schema.stage_kinds import KINDS


@final
@dataclass(frozen=True, slots=True)
class Pruned:
    """Something the compiled graph does without, and why."""

    stage: str
    what: str
    why: str


@final
@dataclass(frozen=True, slots=True)
class RoundOf:
    """Which round of which repetition a stage belongs to."""

    repeat: str
    number: int
    of: int
    watched: str
    """SPLIT/VALUE by which the rounds end early; empty for none."""
    less: bool
    """Whether less of it is better."""
    min_delta: float
    """An improvement is more than this."""


@final
@dataclass(frozen=True, slots=True)
class StageSummary:
    """A stage of the plan."""

    name: str
    steps: int
    pruned: tuple[Pruned, ...] = ()
    round: RoundOf | None = None
    """The round that it is of."""
    held: int | None = None
    """Steps, over all stages, of the weights that it left; None where it left none."""
    skipped: bool = False
    """Its rounds ended before it."""
    written: Mapping[str, float] = field(default_factory=dict)
    """What it says of the data set that it wrote: counts by their names."""


def stage_summary(stage: Json, place: RunFolder) -> StageSummary:
    """A stage of plan.json; its steps may stand beside its name or in its section; only `train` has any."""
    name = str(stage.get("name", ""))
    graph, section = stage.get("graph"), stage.get("stage")
    inner: Json = section if isinstance(section, dict) else stage
    kind = KINDS.get(str(inner.get("type", "train")))
    steps = whole(inner.get("steps")) or 0 if kind is None or kind.learns else 0
    items = objects_in(graph.get("pruned"), "", []) if isinstance(graph, dict) else []
    pruned = tuple(Pruned(name, str(item.get("what", "")), str(item.get("why", ""))) for item in items)
    left, mark, made = place.stages / name, place.complete(name), dict[str, float]()
    done = read_object(mark, []) if mark.is_file() else {}
    holds = done.get("model")
    if (left / "dataset.json").is_file():
        made = dict(_counts(read_object(left / "dataset.json", [])))
    held = whole(holds.get("step")) if isinstance(holds, dict) else None
    return StageSummary(name, steps, pruned, _round(inner.get("round")), held, done.get("skipped") is True, made)


def _round(found: object) -> RoundOf | None:
    if not isinstance(found, dict) or whole(found.get("number")) is None:
        return None
    stop = found.get("stop_early")
    watch: Json = stop if isinstance(stop, dict) else {}
    return RoundOf(
        str(found.get("repeat", "")),
        whole(found.get("number")) or 0,
        whole(found.get("of")) or 0,
        str(watch.get("metric", "")),
        watch.get("mode") == "min",
        number(watch.get("min_delta")) or 0.0,
    )


def _counts(found: Json, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of a data set's summary, those of objects within it under both names; how it was sampled is none."""
    for key, value in found.items():
        if isinstance(value, dict) and key not in ("sampling", "provenance"):
            yield from _counts(value, f"{prefix}{key}: ")
        elif key not in ("seed", "round") and not isinstance(value, bool) and (count := number(value)) is not None:
            yield f"{prefix}{key}", count
