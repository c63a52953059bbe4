"""The picture that `RichDisplay` shows: what is remembered of a run and how it is laid out in 80 columns or more."""

import math
import re
import threading
import unicodedata
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from wavalign.engine.report.plots import number
from wavalign.engine.run.callbacks import RunInfo
from wavalign.redaction import REDACTOR

BARS = "▁▂▃▄▅▆▇█"
HISTORY = 400
"""Values kept per curve for its sparkline."""
PACE = 20
"""Steps whose mean length makes the estimate of what is left."""
STYLES = {"text": "dodger_blue1", "audio": "dark_orange", "marks": "medium_purple"}
"""The colours of the token kinds, as in the report."""
FACTORS = ("gate/raw", "gate/direction", "gate/information")
"""What stands first beside the gate's value, whatever else it logs."""
ESCAPES = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.")
"""Terminal commands: colours, cursor, titles."""
NARROW = 60
"""Columns below which curves give way to numbers."""
ROOM_FOR_INTERVALS = 72
"""Columns from which held-out values carry their intervals."""
ROOMY = 110
"""Columns from which parts get sparklines of their own."""


@final
@dataclass(frozen=True, slots=True)
class Measure:
    """One held-out value with its interval, the gold answers' value and the number of items."""

    value: float
    low: float
    high: float
    gold: float | None
    count: int | None


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


def printable(text: str, *, keep_indent: bool = False) -> str:
    """`text` on one line, without secrets, control codes, direction marks or lone surrogates."""
    shown = []
    for letter in ESCAPES.sub("", REDACTOR.text(text)):
        category = unicodedata.category(letter)
        if category in ("Cc", "Zl", "Zp"):
            shown.append(" ")
        elif category not in ("Cf", "Cs", "Co", "Cn"):
            shown.append(letter)
    line = "".join(shown)
    return line if keep_indent else " ".join(line.split())


def span(seconds: float) -> str:
    """Seconds for people, short."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def sparkline(values: Sequence[float], width: int) -> str:
    """`values` as at most `width` bars, each the mean of its share; a level line where nothing changes."""
    if not values or width < 1:
        return ""
    bars = min(width, len(values))
    edges = [round(index * len(values) / bars) for index in range(bars + 1)]
    means = [math.fsum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    if high == low:
        return BARS[3] * bars
    return "".join(BARS[min(7, int((mean - low) / (high - low) * 8))] for mean in means)


@final
class Board:
    """What is shown, behind a lock: the trainer writes, the redrawing thread reads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._run: RunInfo | None = None
        self._stage, self._stage_steps = "", 0
        self._steps_done = 0
        self._last: Mapping[str, float] = {}
        self._history: dict[str, deque[float]] = {}
        self._paces: deque[float] = deque(maxlen=PACE)
        self._stepped = clock()
        self._before: dict[tuple[str, str], Measure] = {}
        self._latest: dict[tuple[str, str], Measure] = {}
        self._rollout: tuple[str, str, float | None] | None = None
        self._progress: tuple[str, int, int] | None = None

    def start(self, run: RunInfo) -> None:
        """Take the run's facts."""
        with self._lock:
            self._run, self._stepped = run, self._clock()

    def stage(self, name: str, steps: int) -> None:
        """Turn to a stage."""
        with self._lock:
            self._stage, self._stage_steps = name, steps
            self._steps_done, self._stepped, self._progress = 0, self._clock(), None
            self._paces.clear()

    def step(self, values: Mapping[str, float], steps_done: int) -> None:
        """Take a step's values; those that are no finite number are shown, not drawn."""
        with self._lock:
            now = self._clock()
            self._paces.append(values.get("step_seconds", now - self._stepped))
            self._stepped, self._steps_done, self._last, self._progress = now, steps_done, dict(values), None
            for key, value in values.items():
                if math.isfinite(value):
                    self._history.setdefault(key, deque(maxlen=HISTORY)).append(value)

    def evaluation(self, split: str, values: Mapping[str, float], when: str) -> None:
        """Take a split's values: those of the first start stand as before, later ones as the latest."""
        with self._lock:
            self._stepped, self._progress = self._clock(), None
            for name, part in measures(values).items():
                first = when == "start" and (split, name) not in self._before
                (self._before if first else self._latest)[split, name] = part

    def rollout(self, question: str, answer: str, reward: float | None) -> None:
        """Take an answer to show."""
        with self._lock:
            self._rollout = (printable(question), printable(answer), reward)

    def progress(self, what: str, done: int, total: int) -> None:
        """Take how far something is."""
        with self._lock:
            self._progress = (printable(what), done, total) if done < total else None

    def view(self) -> RenderableType:
        """The picture; its size is known only when it is drawn."""
        return _View(self)

    def draw(self, width: int, height: int) -> RenderableType:
        """Lay out what is known in `width` columns; what matters least goes when `height` is short."""
        with self._lock:
            parts: list[tuple[int, RenderableType]] = [(2, self._header(width)), (2, self._bar(width))]
            if self._last:
                metrics = self._metrics(width)
                parts.append((metrics.row_count + 1, Group("", metrics)))
            if self._before or self._latest:
                table = self._evaluations(width)
                parts.append((table.row_count + 2, Group("", table)))
            if self._rollout is not None:
                parts.append((3, Group("", self._answer())))
        shown, used = [], 0
        for lines, part in parts:
            if used + lines <= max(4, height - 1):
                shown.append(part)
                used += lines
        return Group(*shown)

    def _header(self, width: int) -> Text:
        if self._run is None:
            return Text("starting")
        line = Text.assemble((printable(self._run.name), "bold"), ("  ", ""), overflow="ellipsis", no_wrap=True)
        seed = f"seed {self._run.seed}" if self._run.seed is not None else ""
        line.append("  ".join(fact for fact in (seed, printable(self._run.hardware)) if fact), "dim")
        if width >= ROOMY:
            line.append(f"  {printable(self._run.folder)}", "dim")
        return line

    def _bar(self, width: int) -> Table:
        row = Table.grid(padding=(0, 2))
        row.add_column(no_wrap=True)
        row.add_column(width=None if width >= NARROW else 4)
        row.add_column(no_wrap=True, min_width=len(str(self._stage_steps)) * 2 + 1)
        row.add_column(no_wrap=True, overflow="ellipsis")
        done, total = self._steps_done, self._stage_steps
        bar_width = max(4, min(44, width - 56))
        if self._progress is not None:
            what, part, whole = self._progress
            row.add_row(
                what[:24], ProgressBar(whole, part, width=bar_width, complete_style="cyan"), f"{part:,}/{whole:,}", ""
            )
        else:
            row.add_row(
                printable(self._stage),
                ProgressBar(max(1, total), done, width=bar_width, complete_style="cyan"),
                f"{done}/{total}",
                self._pace(),
            )
        return row

    def _pace(self) -> Text:
        left = self._stage_steps - self._steps_done
        if not self._paces or left <= 0:
            return Text("")
        pace = math.fsum(self._paces) / len(self._paces)
        rest = max(0.0, pace * left - (self._clock() - self._stepped))
        return Text(f"{number(pace)} s a step, {span(rest)} left", "dim")

    def _metrics(self, width: int) -> Table:
        grid = Table.grid(padding=(0, 2))
        bars = 24 if width >= ROOMY else 12 if width >= NARROW else 0
        grid.add_column(style="dim", no_wrap=True, min_width=8)
        grid.add_column(justify="right", no_wrap=True, min_width=8)
        grid.add_column(no_wrap=True, min_width=bars, width=bars or None, style="cyan")
        grid.add_column(overflow="ellipsis", no_wrap=True)
        for label, key, prefix in (
            ("loss", "loss", "loss/"),
            ("reward", "reward", "reward/"),
            ("gate λ", "gate", "gate/"),
        ):
            if key in self._last:
                grid.add_row(label, self._number(key), self._spark(key, bars), self._parts(prefix, width))
        if any(key.startswith("kl/") for key in self._last):
            grid.add_row("KL", "", "", self._parts("kl/", width))
        if "tokens_per_second" in self._last:
            key = "tokens_per_second"
            grid.add_row("tokens/s", self._number(key), self._spark(key, bars), self._lengths())
        return grid

    def _parts(self, prefix: str, width: int) -> Text:
        line = Text()
        found = [key for key in self._last if key.startswith(prefix) and key.count("/") == 1]
        for key in sorted(found, key=lambda key: key not in FACTORS):
            value = self._last[key]
            name = printable(key.removeprefix(prefix))
            line.append(f"{name} ", STYLES.get(name, "dim"))
            line.append(number(value) if math.isfinite(value) else "nan", "" if math.isfinite(value) else "bold red")
            if width >= ROOMY:
                line.append(f" {self._spark(key, 8)}", STYLES.get(name, "cyan"))
            line.append("  ")
        line.rstrip()
        return line

    def _lengths(self) -> Text:
        words = []
        if "rollout_length" in self._last:
            words.append(f"length {number(self._last['rollout_length'])}")
        if "truncated" in self._last:
            words.append(f"cut off {self._last['truncated']:.0%}")
        return Text("  ".join(words))

    def _number(self, key: str) -> Text:
        value = self._last[key]
        return Text(number(value), "bold") if math.isfinite(value) else Text("nan", "bold red")

    def _spark(self, key: str, bars: int) -> str:
        return sparkline(tuple(self._history.get(key, ())), bars)

    def _evaluations(self, width: int) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        table.add_column("held-out", overflow="ellipsis", no_wrap=True)
        for title in ("before", "now", "gold"):
            table.add_column(title, justify="right", no_wrap=True)
        for split, name in dict.fromkeys([*self._before, *self._latest]):
            before, latest = self._before.get((split, name)), self._latest.get((split, name))
            known = latest or before
            gold = number(known.gold) if known is not None and known.gold is not None else ""
            table.add_row(printable(f"{split} {name}"), _cell(before, width), _cell(latest, width, before), gold)
        return table

    def _answer(self) -> Group:
        if self._rollout is None:
            return Group()
        question, answer, reward = self._rollout
        asked = Text.assemble(("asked  ", "dim"), question, overflow="ellipsis", no_wrap=True)
        said = Text.assemble(("said   ", "dim"), (answer, STYLES["text"]), overflow="ellipsis", no_wrap=True)
        if reward is not None:
            said = Text.assemble((f"said ({number(reward)})  ", "dim"), (answer, STYLES["text"]))
            said.overflow, said.no_wrap = "ellipsis", True
        return Group(asked, said)


@final
class _View:
    """Draws a board at the size of the console it is drawn on."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._board.draw(options.max_width, options.max_height)


def _cell(part: Measure | None, width: int, before: Measure | None = None) -> Text:
    """Value and interval; bold where it lies apart from `before`."""
    if part is None:
        return Text("")
    apart = before is not None and (part.low > before.high or part.high < before.low)
    text = Text(number(part.value), "bold" if apart else "")
    text.append(f" [{number(part.low)}, {number(part.high)}]" if width >= ROOM_FOR_INTERVALS else "", "dim")
    return text
