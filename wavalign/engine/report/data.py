"""A run's folder as frozen records.

Reads what is there: a run that still goes, was interrupted or died leaves fewer lines, and the report says so. Nothing
is skipped silently; every line or file that could not be used becomes a note.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import yaml

from wavalign.engine.report.outcomes import Ends, details_of, number, read_outcomes, values_of
from wavalign.engine.report.reading import Json, objects_in, read_object, whole
from wavalign.engine.report.stages import StageSummary, stage_summary
from wavalign.engine.state.folder import RunFolder
from wavalign.errors import DataError
from wavalign.redaction import REDACTOR
from wavalign.schema.environment import remember, secret_names

LABELS = frozenset({"stage", "step", "split", "time"})
"""Keys of a metrics line that are not values."""


@final
@dataclass(frozen=True, slots=True)
class MetricLine:
    """One line of metrics.jsonl: where it stands and its values (those that are no finite number are left out)."""

    stage: str
    step: int
    split: str
    time: str
    values: Mapping[str, float]


@final
@dataclass(frozen=True, slots=True)
class Sample:
    """One kept answer of rollouts.jsonl."""

    stage: str
    step: int
    split: str
    dialogue: str
    item: int | None
    """Place of a held-out dialogue in its split; None where the file does not say, and of training rollouts."""
    group: int | None
    """Of a training rollout, which prompt of the step it answers."""
    question: str
    text: str
    reference: str | None
    finished: bool | None
    """None where the file does not say."""
    audio: Path | None
    question_audio: Path | None
    reference_audio: Path | None
    reward: float | None
    advantage: float | None
    parts: Mapping[str, float | None]
    """Reward name -> value; None where it had none."""
    reasons: Mapping[str, str]
    """Reward name -> why there is no value."""
    details: Mapping[str, str]
    """`<reward>/<key>` -> text, e.g. the transcript that was heard."""
    values: Mapping[str, float | None]
    """Held-out value -> what came of this answer."""
    shown: Mapping[str, str | float | None]
    """What the metrics show beside, e.g. `heard`."""
    reference_values: Mapping[str, float | None]
    """The same of the reference answer."""
    reference_shown: Mapping[str, str | float | None]


@final
@dataclass(frozen=True, slots=True)
class Measure:
    """What a held-out value is."""

    metric: str
    """Name of its metric in the recipe."""
    unit: str
    says: str
    """In one sentence; empty where nobody said."""
    less: bool = False
    """Whether less of it is better."""


@final
@dataclass(frozen=True, slots=True)
class RunData:
    """Everything the report shows of one run."""

    folder: Path
    name: str
    description: str
    seed: int | None
    fingerprint: str
    stages: tuple[StageSummary, ...]
    lines: tuple[MetricLine, ...]
    samples: tuple[Sample, ...]
    outcomes: Mapping[str, Ends]
    """Split -> every item of its first and of its last evaluation; empty for runs that kept none."""
    measures: Mapping[str, Measure]
    """Held-out value -> what it is."""
    environment: tuple[tuple[str, str], ...]
    """Dotted key and text, in the order of the file."""
    recipe: str
    """Text of recipe.resolved.yaml."""
    complete: bool
    """The run says so itself."""
    notes: tuple[str, ...]

    @property
    def train(self) -> tuple[MetricLine, ...]:
        """Training lines, in order of steps."""
        return tuple(line for line in self.lines if line.split == "train")

    @property
    def splits(self) -> tuple[str, ...]:
        """Evaluation splits in order of appearance."""
        return tuple(dict.fromkeys(line.split for line in self.lines if line.split != "train"))

    @property
    def steps_done(self) -> int:
        return max((line.step for line in self.train), default=0)

    @property
    def steps_planned(self) -> int:
        return sum(stage.steps for stage in self.stages)

    @property
    def seconds(self) -> float | None:
        """Time spent in steps and evaluations; None where nothing was timed."""
        keys = ("step_seconds", "evaluation_seconds")
        spent = [line.values[key] for line in self.lines for key in keys if key in line.values]
        return sum(spent) if spent else None


def read_run(folder: Path) -> RunData:
    """Read `folder`; raises DataError when it is no run's folder (neither plan nor metrics)."""
    place = RunFolder(folder)
    if not place.metrics.is_file() and not place.plan.is_file():
        raise DataError(
            f"{folder} holds neither metrics.jsonl nor plan.json",
            hint="name the folder of one run, e.g. runs/<recipe>/<time>-<id>",
        )
    notes: list[str] = []
    plan = read_object(place.plan, notes)
    remember(secret_names(plan), os.environ)
    lines = _last_of_each(_metric_lines(place.metrics, notes), notes)
    planned = objects_in(plan.get("stages"), "stages of plan.json", notes)
    notes += [note for stage in planned for note in _warnings(stage)]
    recipe = place.recipe.read_text(encoding="utf-8", errors="replace") if place.recipe.is_file() else ""
    recipe = REDACTOR.text(recipe)
    return RunData(
        folder=folder,
        name=str(plan.get("name", folder.name)),
        description=_described(plan, recipe, notes),
        seed=whole(plan.get("seed")),
        fingerprint=str(plan.get("fingerprint", "")),
        stages=tuple(stage_summary(stage, place) for stage in planned),
        lines=lines,
        samples=tuple(_sample(record, folder) for record in _objects(place.rollouts, notes)),
        outcomes=read_outcomes(folder, notes),
        measures=_measures(place.measures, notes),
        environment=tuple(_flatten(read_object(place.environment, notes))),
        recipe=recipe,
        complete=place.is_finished,
        notes=tuple(notes),
    )


def _measures(path: Path, notes: list[str]) -> dict[str, Measure]:
    found = read_object(path, notes) if path.is_file() else {}
    return {
        name: Measure(
            str(each.get("metric", "")),
            str(each.get("unit", "")),
            str(each.get("says", "")),
            each.get("better") == "less",
        )
        for name, each in found.items()
        if isinstance(each, dict)
    }


def _described(plan: Json, recipe: str, notes: list[str]) -> str:
    """The plan's `description`, or the one of the resolved recipe where the plan carries none."""
    if plan.get("description"):
        return str(plan["description"])
    try:
        tree = yaml.safe_load(recipe)
    except yaml.YAMLError as error:
        notes.append(f"recipe.resolved.yaml cannot be parsed: {error}.")
        return ""
    return str(tree.get("description") or "") if isinstance(tree, dict) else ""


def _objects(path: Path, notes: list[str]) -> Iterator[Json]:
    """Objects of a JSON-lines file; a line that is not one (torn by a crash) is skipped with a note."""
    if not path.is_file():
        notes.append(f"{path.name} is not there.")
        return
    with path.open(encoding="utf-8", errors="replace") as handle:
        for place, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = None
            if isinstance(value, dict) and whole(value.get("step", 0)) is not None:
                yield REDACTOR.tree(value)
            elif isinstance(value, dict):
                notes.append(f"{path.name}, line {place} has no step; it was left out.")
            else:
                torn = "is torn (writing stopped in the middle)" if not line.endswith("\n") else "is no JSON object"
                notes.append(f"{path.name}, line {place} {torn}; it was left out.")


def _metric_lines(path: Path, notes: list[str]) -> Iterator[MetricLine]:
    not_finite: dict[str, int] = {}
    for record in _objects(path, notes):
        values: dict[str, float] = {}
        for key, value in record.items():
            if key in LABELS or not isinstance(value, (int, float)):
                continue
            finite = number(value)
            if finite is not None:
                values[key] = finite
            else:
                not_finite[key] = not_finite.get(key, 0) + 1
        yield MetricLine(
            stage=str(record.get("stage", "")),
            step=int(record.get("step", 0)),
            split=str(record.get("split", "train")),
            time=str(record.get("time", "")),
            values=values,
        )
    for key, count in not_finite.items():
        notes.append(f"{key} was not a finite number on {count} of the lines; its curve has gaps there.")


def _last_of_each(lines: Iterator[MetricLine], notes: list[str]) -> tuple[MetricLine, ...]:
    """One line per stage, split and step: after a resume the later one counts."""
    latest: dict[tuple[str, str, int], MetricLine] = {}
    repeated = 0
    for line in lines:
        key = (line.stage, line.split, line.step)
        repeated += latest.pop(key, None) is not None
        latest[key] = line
    if repeated:
        notes.append(f"Lines logged again after a resume: {repeated}. The later ones are shown.")
    return tuple(sorted(latest.values(), key=lambda line: line.step))


def _warnings(stage: Json) -> Iterator[str]:
    """What the plan warns of in a stage."""
    for each in objects_in(stage.get("warnings"), "", []):
        yield f"{each.get('path', '')}: {each.get('message', '')}; {each.get('hint', '')}."


def _sample(record: Json, folder: Path) -> Sample:
    details = {key.removeprefix("detail/"): _text(value) for key, value in record.items() if key.startswith("detail/")}
    if isinstance(record.get("heard"), str):
        details["heard"] = record["heard"]
    return Sample(
        stage=str(record.get("stage", "")),
        step=int(record.get("step", 0)),
        split=str(record.get("split", "train")),
        dialogue=str(record.get("dialogue", "")),
        item=whole(record.get("item")),
        group=whole(record.get("group")),
        question=str(record.get("question") or ""),
        text=str(record.get("text") or ""),
        reference=str(record["reference"]) if record.get("reference") is not None else None,
        finished=record.get("finished") if isinstance(record.get("finished"), bool) else None,
        audio=inside(folder, record.get("audio")),
        question_audio=inside(folder, record.get("question_audio")),
        reference_audio=inside(folder, record.get("reference_audio")),
        reward=number(record.get("reward")),
        advantage=number(record.get("advantage")),
        parts={
            key.removeprefix("reward/"): number(value)
            for key, value in record.items()
            if key.startswith("reward/") and key.count("/") == 1
        },
        reasons={
            key.removeprefix("reason/"): str(value)
            for key, value in record.items()
            if key.startswith("reason/") and value
        },
        details=details,
        values=values_of(record.get("values")),
        shown=details_of(record.get("details")),
        reference_values=values_of(record.get("reference_values")),
        reference_shown=details_of(record.get("reference_details")),
    )


def inside(folder: Path, relative: object) -> Path | None:
    """A file of the run's own folder; what a line names elsewhere is not read."""
    if not isinstance(relative, str) or not relative:
        return None
    try:
        path = (folder / relative).resolve()
    except (OSError, ValueError):  # no name of a file
        return None
    return path if path.is_relative_to(folder.resolve()) else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flatten(tree: Json, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flatten(value, f"{name}.")
        elif isinstance(value, list):
            if value:
                yield name, (" " if key == "command" else ", ").join(_text(item) for item in value)
        elif value is not None:
            yield name, _text(value)
