"""Rounds side by side: every held-out value of each with its interval, what each learned from, which is taken up."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from wavalign.engine.report.data import Measure, MetricLine, RunData
from wavalign.engine.report.outcomes import Split, compare
from wavalign.engine.report.paired import holm
from wavalign.engine.report.plots import Chart, Curve, Interval
from wavalign.engine.report.stages import RoundOf, StageSummary
from wavalign.engine.report.summary import Row, decimals, interval, is_share, is_unmeasured, measured

BEFORE = "before"


@final
@dataclass(frozen=True, slots=True)
class Moment:
    """What is measured in one column: before the rounds, or at the end of one."""

    title: str
    place: float
    """Of it on a chart's axis."""
    stages: tuple[StageSummary, ...]
    taken: bool = False
    """What follows the rounds starts from it."""


@final
@dataclass(frozen=True, slots=True)
class RoundsRow:
    """One value over all moments."""

    split: str
    name: str
    cells: tuple[Row, ...]
    """One for each moment: `after` is its value, `before` that of the moment before it, where there is one."""
    gold: Interval | None
    decimals: int
    measure: Measure | None

    @property
    def is_part(self) -> bool:
        """It breaks another value down."""
        return "/" in self.name


@final
@dataclass(frozen=True, slots=True)
class Written:
    """A count of what stages of one name wrote, round by round; None where a round wrote none."""

    stage: str
    name: str
    counts: tuple[float | None, ...]


@final
@dataclass(frozen=True, slots=True)
class Rounds:
    """One repetition."""

    name: str
    said: str
    moments: tuple[Moment, ...]
    rows: tuple[RoundsRow, ...]
    written: tuple[Written, ...]
    charts: tuple[Chart, ...]

    @property
    def numbered(self) -> tuple[Moment, ...]:
        """The rounds alone."""
        return tuple(moment for moment in self.moments if moment.title != BEFORE)


def all_rounds(run: RunData) -> list[Rounds]:
    """The repetitions of a run of which a round has begun."""
    names = dict.fromkeys(stage.round.repeat for stage in run.stages if stage.round is not None)
    return [found for name in names if (found := _rounds(run, name)) is not None]


def _rounds(run: RunData, name: str) -> Rounds | None:
    stages = [stage for stage in run.stages if stage.round is not None and stage.round.repeat == name]
    about = stages[0].round
    logged = {line.stage for line in run.lines}
    moments = [Moment(BEFORE, 0.0, tuple(run.stages[: run.stages.index(stages[0])]))]
    for number in range(1, (about.of if about is not None else 0) + 1):
        mine = tuple(each for each in stages if each.round is not None and each.round.number == number)
        if any(each.name in logged or each.written for each in mine):
            moments.append(Moment(f"round {number}", float(number), mine))
    if len(moments) == 1 or about is None:
        return None
    said, best = _said(run, about, moments[1:], skipped=any(stage.skipped for stage in stages))
    moments = [replace(each, taken=each is best) for each in moments]
    rows = tuple(_rows(run, moments))
    if not any(row.cells[0].after is not None for row in rows):  # nothing was measured before
        moments, rows = moments[1:], tuple(replace(row, cells=row.cells[1:]) for row in rows)
    charts = tuple(_chart(row, moments) for row in rows if not row.is_part)
    return Rounds(name, said, tuple(moments), rows, tuple(_written(moments)), charts)


def _said(run: RunData, about: RoundOf, rounds: Sequence[Moment], *, skipped: bool) -> tuple[str, Moment | None]:
    """How far the rounds came in a sentence, and the one that is taken up where that is not the last."""
    how = f"{len(rounds)} of {about.of} rounds"
    if not about.watched:
        return f"{how}; each starts from the one before.", None
    split, value = about.watched.split("/", 1) if "/" in about.watched else ("", about.watched)
    best, reached = None, 0.0
    for moment in rounds:
        line = _line(run, moment, split, value)
        if line is None or value not in line.values:
            continue
        gain = (line.values[value] - reached) * (-1 if about.less else 1)
        if best is None or gain > about.min_delta:
            best, reached = moment, line.values[value]
    ended = ", ended early" if skipped else ""
    if best is None:
        return f"{how}{ended}; {about.watched} was not measured yet.", None
    way = "lowest" if about.less else "highest"
    return f"{how}{ended}; {best.title} has the {way} {about.watched} and is taken up.", best


def _line(run: RunData, moment: Moment, split: str, name: str) -> MetricLine | None:
    """The line of a moment's value: of a round the last one that has it, of the weights that were left."""
    stages = {stage.name: stage for stage in moment.stages}
    lines = [line for line in _lines(run, split, name) if line.stage in stages]
    if not lines:
        return _at_start(run, split, name, len(stages)) if moment.title == BEFORE else None
    held = stages[lines[-1].stage].held
    kept = [line for line in lines if (line.stage, line.step) == (lines[-1].stage, held)]
    return (kept or lines)[-1]


def _lines(run: RunData, split: str, name: str) -> list[MetricLine]:
    """The lines in which a value was asked for."""
    lines = [line for line in run.lines if line.split == split]
    return [line for line in lines if name in line.values or is_unmeasured(line, name)]


def _at_start(run: RunData, split: str, name: str, place: int) -> MetricLine | None:
    """What the first stage that has steps measured before them, of the stages from `place` on."""
    done = sum(stage.steps for stage in run.stages[:place])
    learning = next((stage.name for stage in run.stages[place:] if stage.steps), None)
    found = (line for line in _lines(run, split, name) if (line.stage, line.step) == (learning, done))
    return next(found, None)


def _rows(run: RunData, moments: Sequence[Moment]) -> Iterator[RoundsRow]:
    rows = [row for split in run.splits for row in _of_split(run, moments, split)]
    ps: dict[int, float] = {}
    for parts in (False, True):
        tested = [cell for row in rows if row.is_part == parts for cell in row.cells if cell.paired is not None]
        corrected = holm([cell.paired.p for cell in tested if cell.paired is not None])
        ps |= {id(cell): p for cell, p in zip(tested, corrected, strict=True)}
    for row in rows:
        yield replace(row, cells=tuple(replace(cell, p=ps.get(id(cell))) for cell in row.cells))


def _of_split(run: RunData, moments: Sequence[Moment], split: str) -> Iterator[RoundsRow]:
    within = {stage.name for moment in moments for stage in moment.stages}
    lines = [line for line in run.lines if line.split == split and line.stage in within]
    for name in dict.fromkeys(name for line in lines for name in measured(line)):
        found = [_line(run, moment, split, name) for moment in moments]
        if not any(line is not None for line in found[1:]):
            continue
        golds = [gold for line in lines if (gold := interval(line, name, ceiling=True)) is not None]
        gold = golds[-1] if golds else None
        cells, before = list[Row](), None
        for line in found:
            cells.append(_cell(run, name, split, before=before, line=line, gold=gold))
            before = line if line is not None and name in line.values else before
        shown = [part.value for cell in cells for part in (cell.after, gold) if part is not None]
        yield RoundsRow(split, name, tuple(cells), gold, decimals(shown), run.measures.get(name))


def _cell(
    run: RunData, name: str, split: str, *, before: MetricLine | None, line: MetricLine | None, gold: Interval | None
) -> Row:
    ours, theirs = (_items(run, each) for each in (line, before))
    kept = [outcome.values.get(name) for items in (ours, theirs) for outcome in items.values()]
    count = None if line is None else line.values.get(f"{name}/count")
    return Row(
        split=split,
        name=name,
        before=None if before is None else interval(before, name),
        after=None if line is None else interval(line, name),
        ceiling=gold,
        count=None if count is None else int(count),
        paired=compare([ours], [theirs], name) if ours and theirs else None,
        is_share=is_share(kept),
        unmeasured=(False, line is not None and is_unmeasured(line, name)),
        measure=run.measures.get(name),
    )


def _items(run: RunData, line: MetricLine | None) -> Split:
    """The items of an evaluation; empty where they were not kept."""
    if line is None or line.split not in run.outcomes:
        return {}
    ends = run.outcomes[line.split]
    for split in (*ends.by_stage.values(), ends.first):
        one = next(iter(split.values()), None)
        if one is not None and (one.stage, one.step) == (line.stage, line.step):
            return split
    return {}


def _written(moments: Sequence[Moment]) -> Iterator[Written]:
    """Counts of the data sets that stages of a round wrote; what was 0 in all of them is not said."""
    rounds = [moment for moment in moments if moment.title != BEFORE]
    own: list[Mapping[str, Mapping[str, float]]] = [
        {stage.name.split(".", 1)[-1]: stage.written for stage in moment.stages} for moment in rounds
    ]
    for stage in dict.fromkeys(stage for each in own for stage in each):
        for key in dict.fromkeys(key for each in own for key in each.get(stage, {})):
            counts = tuple(each.get(stage, {}).get(key) for each in own)
            if any(counts):
                yield Written(stage, key, counts)


def _chart(row: RoundsRow, moments: Sequence[Moment]) -> Chart:
    found = [(moment.place, cell.after) for moment, cell in zip(moments, row.cells, strict=True)]
    points = [(place, part) for place, part in found if part is not None]
    value = Curve(
        "value, 95 % interval",
        "c2",
        [(place, part.value) for place, part in points],
        band=[(place, part.low, part.high) for place, part in points],
    )
    level = [] if row.gold is None else [(moment.place, row.gold.value) for moment in moments]
    gold = Curve("gold answers", "gold", level, dashed=True)
    return Chart(row.name, f"on {row.split}", (value, gold), unit="round")
