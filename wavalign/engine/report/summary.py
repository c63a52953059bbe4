"""What a run's numbers say: held-out values before and after, the change, and answers side by side."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import final

from wavalign.engine.report.data import Measure, MetricLine, RunData
from wavalign.engine.report.outcomes import compare
from wavalign.engine.report.paired import PairedDifference, holm
from wavalign.engine.report.plots import Interval

_WHERE = {
    "toward": "toward the gold answers",
    "past": "past the gold answers",
    "away": "away from the gold answers",
}


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
    paired: PairedDifference | None = None
    """After against before, item by item; None where the items were not kept."""
    p: float | None = None
    """Its p, corrected for looking at many values."""
    is_share: bool = False
    """Every item that was kept is right or wrong."""
    unmeasured: tuple[bool, bool] = (False, False)
    """Whether it was asked for before and after, and no item had it."""
    measure: Measure | None = None

    @property
    def change(self) -> float | None:
        """After minus before."""
        return self.after.value - self.before.value if self.before is not None and self.after is not None else None

    @property
    def apart(self) -> bool:
        """A difference is shown: item by item where that is known, else because the two intervals do not overlap."""
        if self.before is None or self.after is None:
            return False
        if self.paired is not None:
            return self.paired.shown(p=self.p)
        return self.after.low > self.before.high or self.after.high < self.before.low

    @property
    def direction(self) -> str:
        """`toward`, `past` or `away` from the gold answers' value; `` where that cannot be said."""
        if not self.apart or self.before is None or self.after is None or self.ceiling is None or self.gold_fails:
            return ""
        gold = self.ceiling.value
        if (self.before.value - gold) * (self.after.value - gold) < 0:
            return "past"
        return "toward" if abs(self.after.value - gold) < abs(self.before.value - gold) else "away"

    @property
    def gold_fails(self) -> bool:
        """Not one gold answer counts as right: whatever that says, it is nothing an answer could reach at most."""
        wrong = 1.0 if self.measure is not None and self.measure.less else 0.0
        return self.is_share and self.ceiling is not None and self.ceiling.value == wrong

    @property
    def drawn_ceiling(self) -> Interval | None:
        """The gold answers' value where it is a ceiling."""
        return None if self.gold_fails else self.ceiling

    @property
    def is_part(self) -> bool:
        """It breaks another value down."""
        return "/" in self.name

    @property
    def is_still(self) -> bool:
        """All items right, or none, before and after: it says nothing about the change."""
        return self.before is not None and self.change == 0 and self.before.value in (0.0, 1.0)

    @property
    def counts(self) -> bool:
        """One of the values that a change is looked for in."""
        return self.change is not None and not self.is_part and not self.is_still

    @property
    def decimals(self) -> int:
        """Decimals that give the largest value of the row three significant digits."""
        parts = [part.value for part in (self.before, self.after, self.ceiling) if part is not None]
        return decimals(parts)


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
    found = [key for key in line.values if any(f"{key}{mark}" in line.values for mark in marks)]
    counted = (key.removesuffix("/count") for key in line.values if key.endswith("/count"))
    return found + [name for name in counted if name not in line.values and is_unmeasured(line, name)]


def is_unmeasured(line: MetricLine, name: str) -> bool:
    """Whether `name` was asked for and no item had it."""
    return name not in line.values and line.values.get(f"{name}/count") == 0


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
            having = [line for line in lines if name in line.values or is_unmeasured(line, name)]
            if having:
                found.append(_row(run, name, having, start=min(line.step for line in lines)))
    return _corrected(found)


def _row(run: RunData, name: str, having: Sequence[MetricLine], *, start: int) -> Row:
    first, last = having[0], having[-1]
    is_before = first.step == start and first.step < max(run.steps_done, 1)
    is_after = last is not first or not is_before
    golds = [gold for line in having if (gold := interval(line, name, ceiling=True)) is not None]
    count, ends = last.values.get(f"{name}/count"), run.outcomes.get(first.split)
    paired = compare([ends.last], [ends.first], name) if ends is not None and is_before and is_after else None
    kept = [] if ends is None else [each.values.get(name) for end in (ends.first, ends.last) for each in end.values()]
    return Row(
        split=first.split,
        name=name,
        before=interval(first, name) if is_before else None,
        after=interval(last, name) if is_after else None,
        ceiling=golds[-1] if golds else None,
        count=None if count is None else int(count),
        paired=paired,
        p=None if paired is None else paired.p,
        is_share=is_share(kept),
        unmeasured=(is_before and is_unmeasured(first, name), is_after and is_unmeasured(last, name)),
        measure=run.measures.get(name),
    )


def is_share(outcomes: Iterable[float | None]) -> bool:
    """Whether every outcome is right or wrong, and there is one."""
    kinds = {each for each in outcomes if each is not None}
    return bool(kinds) and kinds <= {0.0, 1.0}


def _corrected(found: Sequence[Row]) -> list[Row]:
    """p by Holm's method: over the values that count, and apart from them over the breakdowns."""
    ps: dict[int, float] = {}
    for family in ([row for row in found if row.counts], [row for row in found if row.is_part]):
        tested = [row for row in family if row.paired is not None]
        corrected = holm([row.paired.p for row in tested if row.paired is not None])
        ps |= {id(row): p for row, p in zip(tested, corrected, strict=True)}
    return [replace(row, p=ps.get(id(row), row.p)) for row in found]


def headline(found: Sequence[Row], most: int) -> list[Row]:
    """What is said in large type: of the first split, the first value of every metric that can have moved."""
    chosen: dict[str, Row] = {}
    for row in found:
        if row.split == found[0].split and row.counts:
            chosen.setdefault(row.measure.metric if row.measure is not None else row.name, row)
    return list(chosen.values())[:most]


def verdict(run: RunData, found: Sequence[Row]) -> str:
    """The run in one sentence of numbers."""
    steps = f"{run.steps_done:,} of {run.steps_planned:,} steps" if run.steps_planned else f"{run.steps_done:,} steps"
    both = [row for row in found if row.counts]
    still = sum(row.is_still and not row.is_part for row in found)
    if not both and not still:
        return f"{steps} done; nothing was measured on held-out data both before and after yet."
    apart = [row for row in both if row.apart]
    where = [f"{count} {_WHERE[way]}" for way in _WHERE if (count := sum(row.direction == way for row in apart))]
    by_item = any(row.paired is not None for row in both)
    rest = f" {_still(still)}" if still else ""
    if len(both) == 1:
        moved = "moved" if apart else "did not move"
        how = "on the same items" if by_item else "beyond its 95 % interval"
        way = "".join(f", {_WHERE[row.direction]}" for row in apart if row.direction)
        return f"After {steps}, the one held-out value {moved} {how}{way}.{rest}"
    how = "on the same items (p < 0.05 for all together)" if by_item else "beyond their 95 % intervals"
    said = f"After {steps}, {len(apart)} of {len(both)} held-out values moved {how}"
    return f"{said}{': ' if where else ''}{', '.join(where)}.{rest}"


def _still(count: int) -> str:
    if count == 1:
        return "Not counted: 1 value that is the same for every item, before and after."
    return f"Not counted: {count} values that are the same for every item, before and after."
