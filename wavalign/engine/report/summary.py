"""What a run's numbers say: held-out values before and after, the change, and answers side by side."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from wavalign.engine.report.data import MetricLine, RunData, Sample
from wavalign.engine.report.plots import Interval


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One held-out value: before, after, the same on the gold answers."""

    split: str
    name: str
    before: Interval | None
    after: Interval | None
    ceiling: Interval | None
    count: int | None

    @property
    def change(self) -> float | None:
        """After minus before."""
        return self.after.value - self.before.value if self.before is not None and self.after is not None else None

    @property
    def apart(self) -> bool:
        """The two intervals do not overlap."""
        if self.before is None or self.after is None:
            return False
        return self.after.low > self.before.high or self.after.high < self.before.low

    @property
    def direction(self) -> str:
        """`toward` or `away` from the gold answers' value, `` where that cannot be said or the change is not marked."""
        if not self.apart or self.before is None or self.after is None or self.ceiling is None:
            return ""
        gold = self.ceiling.value
        return "toward" if abs(self.after.value - gold) < abs(self.before.value - gold) else "away"

    @property
    def decimals(self) -> int:
        """Decimals that give the largest value of the row three significant digits."""
        parts = [part.value for part in (self.before, self.after, self.ceiling) if part is not None]
        return decimals(parts)


@final
@dataclass(frozen=True, slots=True)
class Pair:
    """The same dialogue answered before and after training."""

    split: str
    dialogue: str
    before: Sample | None
    after: Sample | None

    @property
    def shown(self) -> Sample:
        """The sample that carries question and reference."""
        sample = self.after or self.before
        assert sample is not None, "a pair has at least one side"
        return sample


def decimals(values: Sequence[float]) -> int:
    """Decimals that give the largest of `values` three significant digits, at most five."""
    largest = max((abs(value) for value in values), default=0.0)
    return 2 if largest == 0 else min(5, max(0, 2 - math.floor(math.log10(largest))))


def fixed(value: float | None, places: int, *, signed: bool = False) -> str:
    """`value` with `places` decimals and a true minus; `signed` also writes the plus."""
    if value is None:
        return "–"
    sign = "−" if value < 0 else "+" if signed and value > 0 else ""
    return f"{sign}{abs(value):,.{places}f}"


def measured(line: MetricLine) -> list[str]:
    """Names of the values an evaluation line measures: those logged with an interval, a count or a ceiling."""
    marks = ("/low", "/count", "/ceiling")
    return [key for key in line.values if any(f"{key}{mark}" in line.values for mark in marks)]


def interval(line: MetricLine, name: str, *, ceiling: bool = False) -> Interval | None:
    """Value `name` of `line` with its interval, or the gold answers' one beside it."""
    key, low, high = f"{name}/ceiling", f"{name}/ceiling_low", f"{name}/ceiling_high"
    if not ceiling:
        key, low, high = name, f"{name}/low", f"{name}/high"
    value = line.values.get(key)
    if value is None:
        return None
    return Interval(value, line.values.get(low, value), line.values.get(high, value))


def rows(run: RunData) -> list[Row]:
    """One row per split and value, from the first and the last evaluation of each split."""
    found = []
    for split in run.splits:
        lines = [line for line in run.lines if line.split == split]
        for name in dict.fromkeys(name for line in lines for name in measured(line)):
            having = [line for line in lines if name in line.values]
            if not having:
                continue
            first, last = having[0], having[-1]
            is_before = first.step == min(line.step for line in lines) and first.step < max(run.steps_done, 1)
            golds = [gold for line in having if (gold := interval(line, name, ceiling=True)) is not None]
            count = last.values.get(f"{name}/count")
            found.append(
                Row(
                    split=split,
                    name=name,
                    before=interval(first, name) if is_before else None,
                    after=interval(last, name) if last is not first or not is_before else None,
                    ceiling=golds[-1] if golds else None,
                    count=None if count is None else int(count),
                )
            )
    return found


def verdict(run: RunData, found: Sequence[Row]) -> str:
    """The run in one sentence of numbers."""
    steps = f"{run.steps_done:,} of {run.steps_planned:,} steps" if run.steps_planned else f"{run.steps_done:,} steps"
    both = [row for row in found if row.change is not None]
    if not both:
        return f"{steps} done; nothing was measured on held-out data both before and after yet."
    apart = [row for row in both if row.apart]
    toward = sum(row.direction == "toward" for row in apart)
    away = sum(row.direction == "away" for row in apart)
    if len(both) == 1:
        moved = "moved" if apart else "did not move"
        where = ", toward the gold answers" if toward else ", away from the gold answers" if away else ""
        return f"After {steps}, the one held-out value {moved} beyond its 95 % interval{where}."
    said = f"After {steps}, {len(apart)} of {len(both)} held-out values moved beyond their 95 % intervals"
    if toward or away:
        said += f": {toward} toward the gold answers, {away} away from them"
    return said + "."


def pairs(run: RunData) -> list[Pair]:
    """Held-out answers of the first and of the last evaluation, joined by dialogue, in order of appearance."""
    grouped: dict[tuple[str, str], list[Sample]] = {}
    for sample in run.samples:
        if sample.split != "train":
            grouped.setdefault((sample.split, sample.dialogue), []).append(sample)
    joined = []
    for (split, dialogue), samples in grouped.items():
        ordered = sorted(samples, key=lambda sample: sample.step)
        first, last = ordered[0], ordered[-1]
        if first is last:
            early = first.step < max(run.steps_done, 1)
            joined.append(Pair(split, dialogue, first if early else None, None if early else first))
        else:
            joined.append(Pair(split, dialogue, first, last))
    return joined


def latest_rollouts(run: RunData, most: int = 4) -> list[Sample]:
    """The last kept training rollouts, for a run that has no held-out samples."""
    train = [sample for sample in run.samples if sample.split == "train"]
    last = max((sample.step for sample in train), default=0)
    return [sample for sample in train if sample.step == last][:most]
