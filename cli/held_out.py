"""Held-out values as a table: before, now and on the gold answers, the most telling rows first."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from rich.cells import cell_len
from rich.text import Text

from wavalign.engine.report.paired import SIGNIFICANT
from wavalign.engine.report.plots import number

HEADLINES = ("text_accuracy", "heard_answer", "style_accuracy", "speech_quality")
"""Values that stand first where there is no room for all."""
SECONDARY = ("heard_own_text", "speech_quality_overall", "style_measurable", "well_formed")
"""Values that stand behind all others but the parts of one (`name/key=value`)."""
NOISE = 1e-9
"""An interval's end that is this small beside the interval is the rounding of a zero."""
GAP = "  "
TITLES = ("before", "now", "gold")


@final
@dataclass(frozen=True, slots=True)
class Measure:
    """One held-out value with its interval, the gold answers' value and the number of items."""

    value: float
    low: float
    high: float
    gold: float | None
    count: int | None

    @property
    def interval(self) -> str:
        """`[low, high]` for people; empty where there is none."""
        if not all(math.isfinite(each) for each in (self.value, self.low, self.high)):
            return ""
        return f"[{number(self._end(self.low))}, {number(self._end(self.high))}]"

    def _end(self, end: float) -> float:
        return 0.0 if abs(end) < NOISE * max(map(abs, (self.value, self.low, self.high))) else end


def measures(values: Mapping[str, float]) -> dict[str, Measure]:
    """The values of an evaluation line, by name."""
    found = {}
    for name, value in values.items():
        if f"{name}/low" in values or f"{name}/ceiling" in values:
            count = values.get(f"{name}/count")
            low, high = values.get(f"{name}/low", value), values.get(f"{name}/high", value)
            gold = values.get(f"{name}/ceiling")
            found[name] = Measure(value, low, high, gold, None if count is None else int(count))
    return found


def shown_number(value: float | None) -> str:
    """A value for people; a dash where nothing was measured, words for what is no number."""
    if value is None or math.isnan(value):
        return "–"
    return number(value) if math.isfinite(value) else str(value)


@final
class HeldOut:
    """What was measured first and last, by split and name."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, str], Measure] = {}
        self._latest: dict[tuple[str, str], Measure] = {}
        self._changed: dict[str, frozenset[str]] = {}
        """By split, values whose latest differs from before on the same items."""

    def __bool__(self) -> bool:
        return bool(self._before or self._latest)

    def take(self, split: str, values: Mapping[str, float], when: str) -> None:
        """Values of a split: those of the first start stand as before, later ones as the latest."""
        for name, part in measures(values).items():
            first = when == "start" and (split, name) not in self._before
            (self._before if first else self._latest)[split, name] = part

    def compare(self, split: str, found: Mapping[str, float]) -> None:
        """Take the p of every value of a split: that its latest is as before."""
        self._changed[split] = frozenset(name for name, p in found.items() if p < SIGNIFICANT)

    def changes(self, split: str) -> list[str]:
        """Values of a split that differ from before on the same items, each with its change."""
        found = []
        for name in sorted(self._changed.get(split, ())):
            before, latest = self._before.get((split, name)), self._latest.get((split, name))
            if before is not None and latest is not None and "/" not in name:
                change = latest.value - before.value
                found.append(f"{name} {'+' if change > 0 else ''}{number(change)}")
        return found

    def restore(self, metrics: Path) -> None:
        """What an earlier part of the run measured, by its metrics.jsonl; nothing where there is none."""
        stepped: set[str] = set()
        for line in _lines(metrics):
            stage, split = str(line.get("stage")), str(line.get("split"))
            if split == "train":
                stepped.add(stage)
                continue
            numbers = {k: math.nan if v is None else v for k, v in line.items()}  # a NaN is null in the file
            values = {k: v for k, v in numbers.items() if isinstance(v, int | float)}
            self.take(split, values, "middle" if stage in stepped else "start")

    def table(self, width: int | None, lines: int | None = None) -> list[Text]:
        """The table in `width` cells and at most `lines` lines; None is as much as it takes, and cuts no name."""
        keys = self._ranked()
        chosen = self._fitting(keys, lines)
        if not chosen:
            return []
        left_out = len(keys) - len(chosen)
        return _laid_out([self._row(key) for key in chosen], width, left_out=left_out, whole=lines is None)

    def _ranked(self) -> list[tuple[str, str]]:
        """All rows, the most telling first."""
        found = list(dict.fromkeys([*self._before, *self._latest]))
        splits = list(dict.fromkeys(split for split, _ in found))

        def rank(key: tuple[str, str]) -> tuple[int, int, int]:
            split, name = splits.index(key[0]), key[1]
            if "=" in name:
                return 2, split, 0
            if name in SECONDARY:
                return 1, split, SECONDARY.index(name)
            return 0, split, HEADLINES.index(name) if name in HEADLINES else len(HEADLINES)

        return sorted(found, key=rank)

    def _fitting(self, keys: Sequence[tuple[str, str]], lines: int | None) -> list[tuple[str, str]]:
        """As many of `keys` as fit, split by split; every split has one line for its name."""
        chosen: list[tuple[str, str]] = []
        for key in keys:
            splits = {split for split, _ in (*chosen, key)}
            if lines is not None and len(chosen) + 1 + len(splits) > lines:
                break
            chosen.append(key)
        order = list(dict.fromkeys(split for split, _ in chosen))
        return sorted(chosen, key=lambda key: order.index(key[0]))

    def _row(self, key: tuple[str, str]) -> "_Row":
        before, latest = self._before.get(key), self._latest.get(key)
        known = latest or before
        apart = before is not None and latest is not None and key[1] in self._changed.get(key[0], ())
        return _Row(*key, before, latest, known.gold if known is not None else None, apart)


@final
@dataclass(frozen=True, slots=True)
class _Row:
    split: str
    name: str
    before: Measure | None
    now: Measure | None
    gold: float | None
    apart: bool
    """Whether before and now differ on the same items."""

    def cells(self, *, intervals: bool) -> list[Text]:
        """Before, now, gold."""
        bold = "bold" if self.apart else ""
        gold = Text("" if self.gold is None else shown_number(self.gold))
        return [_cell(self.before, "", intervals), _cell(self.now, bold, intervals), gold]


def _cell(part: Measure | None, style: str, intervals: bool) -> Text:
    if part is None:
        return Text("")
    text = Text(shown_number(part.value), style)
    if intervals and part.interval:
        text.append(f" {part.interval}", "not bold dim")
    return text


def _laid_out(rows: Sequence[_Row], width: int | None, *, left_out: int, whole: bool) -> list[Text]:
    """Rows as lines; intervals give way first, then gold, then the ends of names."""
    longest = max(cell_len(row.name) for row in rows)
    tries = [_columns(rows, intervals, columns) for intervals, columns in ((True, 3), (False, 3), (False, 2))]
    room, (cells, sizes) = next(
        ((room, each) for each in tries if (room := _room(width, each[1], longest)) >= longest),
        (longest if whole else max(4, _room(width, tries[-1][1], longest)), tries[-1]),
    )
    name_size = max(min(longest, room), min(cell_len(rows[0].split), room))
    lines: list[Text] = []
    for index, (row, each) in enumerate(zip(rows, cells, strict=True)):
        if index == 0 or row.split != rows[index - 1].split:
            lines.append(_heading(row.split, name_size, () if lines else sizes))
        line = _fixed(Text(row.name), name_size)
        for size, cell in zip(sizes, each, strict=True):
            line.append(GAP + " " * (size - cell.cell_len)).append_text(cell)
        line.rstrip()
        lines.append(line)
    more = f"{GAP}+{left_out} more"
    if left_out and width is not None and lines[0].cell_len + len(more) <= width:
        lines[0].append(more, "dim")
    return lines


def _columns(rows: Sequence[_Row], intervals: bool, count: int) -> tuple[list[list[Text]], list[int]]:
    """The first `count` cells of every row, and how wide each column is."""
    cells = [row.cells(intervals=intervals)[:count] for row in rows]
    return cells, [max(len(TITLES[i]), *(each[i].cell_len for each in cells)) for i in range(count)]


def _room(width: int | None, sizes: Sequence[int], longest: int) -> int:
    """Cells that columns of `sizes` leave for names."""
    return longest if width is None else width - sum(size + len(GAP) for size in sizes)


def _heading(split: str, name_size: int, sizes: Sequence[int]) -> Text:
    """A split's name and, on the first line, the columns' titles."""
    line = _fixed(Text(split, "dim"), name_size)
    for size, title in zip(sizes, TITLES, strict=False):
        line.append(GAP + title.rjust(size), "dim")
    line.rstrip()
    return line


def _fixed(text: Text, size: int) -> Text:
    """`text` in exactly `size` cells."""
    text.truncate(size, overflow="ellipsis", pad=True)
    return text


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """Objects of a file of JSON lines, up to the first that is torn."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            return
        if isinstance(value, dict):
            yield value
