"""What a measurement is held against, on the first rank: the run's start, and for the drift alarm the stage's first.

Nothing is kept in checkpoints: a run that goes on reads what it needs off its own files, which are cut back to where
it goes on.
"""

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from wavalign.engine.compile.plan import Plan, StagePlan
from wavalign.engine.report.drift import Drift, drifts
from wavalign.engine.report.outcomes import Outcome, Split, keyed, moved, outcomes_in
from wavalign.engine.run.evaluation import SplitResult
from wavalign.engine.state.folder import RunFolder

Values = Mapping[str, Sequence[float | None]]


@final
class DriftWatch:
    """Looks whether rewards rise while a value of another instrument gets worse."""

    def __init__(self, stage: StagePlan, independent: Collection[str], folder: RunFolder) -> None:
        """`independent` names the metrics whose instrument no reward of the stage has."""
        self._stage, self._independent, self._folder = stage, frozenset(independent), folder
        self._rewards: dict[int, float] = {}
        """By step of the run."""
        self._first: dict[str, tuple[int, Values]] = {}
        """By split, step and outcomes of its first measurement."""
        self._looks = max(1, _measurements(stage) - 1) * max(1, len(stage.stage.data.evaluation))
        if self._independent:
            self._restore()

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Take a training step's metrics."""
        if "reward" in values and not math.isnan(values["reward"]):
            self._rewards[step] = values["reward"]

    def see(self, result: SplitResult, step: int) -> list[Drift]:
        """Take a measurement; gives what drifts by it."""
        watched = [name for name, each in result.measures.items() if self._is_watched(name, each)]
        values = {name: [item.verdict.values.get(name) for item in result.items] for name in watched}
        if result.label not in self._first:
            if values:
                self._first[result.label] = (step, values)
            return []
        since, first = self._first[result.label]
        rewards = [reward for at, reward in sorted(self._rewards.items()) if since < at <= step]
        same = {name: items for name, items in first.items() if len(items) == len(values.get(name, ()))}
        less = [name for name in values if result.measures[name].get("better") == "less"]
        return drifts(rewards, same, values, less=less, looks=self._looks, where=(result.label, since))

    def _is_watched(self, name: str, about: Mapping[str, str]) -> bool:
        """Whether a value says how good answers are, by another instrument than a reward's; not a part of another."""
        return "/" not in name and about["metric"] in self._independent and about.get("quality") != "no"

    def _restore(self) -> None:
        """What an earlier part of the run left of this stage."""
        for line in _lines(self._folder.metrics):
            if line.get("stage") == self._stage.name and line.get("split") == "train":
                self.step(int(line["step"]), {k: v for k, v in line.items() if isinstance(v, int | float)})
        found: dict[str, tuple[int, list[Mapping[str, Any]]]] = {}
        for line in _lines(self._folder.evaluation):
            if line.get("stage") == self._stage.name:
                step, items = found.setdefault(str(line["split"]), (int(line["step"]), []))
                if step == line["step"]:
                    items.append(line["values"])
        for split, (step, items) in found.items():
            names = dict.fromkeys(name for values in items for name in values if "/" not in name)
            self._first[split] = (step, {name: [values.get(name) for values in items] for name in names})


@final
class SinceStart:
    """Looks what has changed since the first measurement that a stage began with, item by item."""

    def __init__(self, plan: Plan, folder: RunFolder) -> None:
        """Read what an earlier part of the run measured."""
        self._begins = {stage.name: stage.first_step for stage in plan.stages}
        first: dict[str, list[Outcome]] = {}
        for each in outcomes_in(folder.evaluation, []):
            known = first.setdefault(each.split, [])
            begun = self._begins.get(each.stage) == each.step
            if begun and (not known or (known[0].stage, known[0].step) == (each.stage, each.step)):
                known.append(each)
        self._first: dict[str, Split] = {split: keyed(found) for split, found in first.items() if found}

    def see(self, result: SplitResult, stage: str, step: int) -> dict[str, float] | None:
        """By value the p that nothing has changed; None of the first measurement, and where there was none before."""
        named = [(item.group.dialogue.id, item.verdict.values) for item in result.items] or result.pairs
        items = keyed(
            Outcome(stage, step, result.label, place, name, "", "", None, None, values, {})
            for place, (name, values) in enumerate(named)
        )
        if result.label in self._first:
            return moved(self._first[result.label], items)
        if self._begins.get(stage) == step and items:
            self._first[result.label] = items
        return None


def _measurements(stage: StagePlan) -> int:
    """How often a stage measures."""
    section = stage.stage.evaluation
    between = (stage.steps - 1) // section.every if section.every and stage.steps else 0
    return section.at_start + between + section.at_end


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
