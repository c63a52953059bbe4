"""The picture that `RichDisplay` shows: what is remembered of a run and how it is laid out in the room there is."""

import math
import re
import threading
import unicodedata
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.control import Control
from rich.text import Text

from wavalign.engine.report.plots import number
from wavalign.engine.run.observers import RunInfo
from wavalign.redaction import REDACTOR

from .held_out import HeldOut

BARS = "▁▂▃▄▅▆▇█"
HISTORY = 400
"""Values kept per curve for its sparkline."""
PACE = 20
"""Steps whose mean length makes the estimate of what is left."""
PATIENCE = 3.0
"""Seconds that something takes before it is said what is waited for."""
STYLES = {"text": "dodger_blue1", "audio": "dark_orange", "marks": "medium_purple"}
"""The colours of the token kinds, as in the report."""
FACTORS = ("gate/raw", "gate/direction", "gate/information")
"""What stands first beside the gate's value, whatever else it logs."""
ESCAPES = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.")
"""Terminal commands: colours, cursor, titles."""
NARROW = 60
"""Columns below which curves give way to numbers."""
ROOMY = 110
"""Columns from which parts get sparklines of their own."""
GAP = "  "
LABEL = 8
"""Cells of the names of the metrics' rows."""
LEAST_TABLE = 5
"""Lines the held-out table takes before anything but the bar gets more than three."""


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
    if high - low <= 1e-9 * max(abs(high), abs(low)):  # means of equal values differ in their last bits
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
        self._held_out = HeldOut()
        self._rollout: tuple[str, str, float | None] | None = None
        self._progress: tuple[str, int, int] | None = None
        self._waiting: tuple[str, str, float] | None = None
        self._alarms: dict[str, list[str]] = {}
        """By split, what is wrong by its newest measurement."""
        self._view = _View(self)

    def start(self, run: RunInfo) -> None:
        """Take the run's facts, and of one that goes on what it has measured."""
        with self._lock:
            self._run, self._stepped = run, self._clock()
            self._held_out.restore(Path(run.folder) / "metrics.jsonl")

    def stage(self, name: str, steps: int) -> None:
        """Turn to a stage."""
        with self._lock:
            self._stage, self._stage_steps = printable(name), steps
            self._steps_done, self._stepped, self._progress, self._waiting = 0, self._clock(), None, None
            self._paces.clear()

    def step(self, values: Mapping[str, float], steps_done: int) -> None:
        """Take a step's values; those that are no finite number are shown, not drawn."""
        with self._lock:
            now = self._clock()
            self._paces.append(values.get("step_seconds", now - self._stepped))
            self._stepped, self._steps_done, self._last = now, steps_done, dict(values)
            self._progress = self._waiting = None
            for key, value in values.items():
                if math.isfinite(value):
                    self._history.setdefault(key, deque(maxlen=HISTORY)).append(value)

    def evaluation(self, split: str, values: Mapping[str, float], when: str) -> None:
        """Take a split's values: those of the first start stand as before, later ones as the latest."""
        with self._lock:
            self._stepped, self._progress, self._waiting = self._clock(), None, None
            self._held_out.take(printable(split), {printable(name): each for name, each in values.items()}, when)

    def changed(self, split: str, found: Mapping[str, float]) -> None:
        """Take how a split compares with the run's start."""
        with self._lock:
            self._held_out.compare(printable(split), {printable(name): p for name, p in found.items()})

    def alarm(self, split: str, found: Sequence[str]) -> None:
        """Take what is wrong by the newest measurement of a split."""
        with self._lock:
            self._alarms[split] = [printable(text) for text in found]

    def rollout(self, question: str, answer: str, reward: float | None) -> None:
        """Take an answer to show."""
        with self._lock:
            self._rollout = (printable(question), printable(answer), reward)

    def progress(self, what: str, done: int, total: int) -> None:
        """Take how far something is."""
        with self._lock:
            self._progress = (printable(what), done, total) if done < total else None

    def waiting(self, what: str, done: int, total: int) -> None:
        """Take what the run is busy with; the same thing further on began when it began."""
        with self._lock:
            count = f" {done:,}/{total:,}" if total else ""
            began = self._waiting[2] if self._waiting is not None and self._waiting[0] == what else self._clock()
            self._waiting = (what, printable(what) + count, began) if what else None

    def view(self) -> RenderableType:
        """The picture, always the same object; its size is known only when it is drawn."""
        return self._view

    def result(self, width: int) -> RenderableType:
        """Everything that is known, in as many lines as it takes."""
        with self._lock:
            return Group(*self._lines(width, None))

    def draw(self, width: int, height: int) -> RenderableType:
        """Lay out what is known in `width` columns; what matters least goes when `height` is short."""
        with self._lock:
            return Group(*self._lines(width, max(4, height - 1)))

    def _lines(self, width: int, room: int | None) -> list[Text]:
        metrics, answer = self._metrics(width), self._answer()
        whole = self._held_out.table(width)
        waiting = [*(Text(text, "bold red") for found in self._alarms.values() for text in found), *self._wait()]
        wanted = {"table": len(whole), "metrics": len(metrics), "answer": len(answer)}
        wanted["gap"] = sum(1 for name in ("table", "metrics", "answer") if wanted[name])
        given = wanted if room is None else _shared(wanted, room - 2 - len(waiting), base=self._rows())
        table = whole if room is None else self._held_out.table(width, given["table"])
        lines, gaps = [self._header(width), self._bar(width), *waiting], given["gap"]
        for part in (metrics[: given["metrics"]], table, answer[: given["answer"]]):
            if part and gaps:
                lines.append(Text(""))
                gaps -= 1
            lines += part
        return [_cut(line, width) for line in lines] if room is not None else lines

    def _header(self, width: int) -> Text:
        if self._run is None:
            return Text("starting")
        line = Text.assemble((printable(self._run.name), "bold"), (GAP, ""))
        seed = f"seed {self._run.seed}" if self._run.seed is not None else ""
        line.append(GAP.join(fact for fact in (seed, printable(self._run.hardware)) if fact), "dim")
        folder = GAP + printable(self._run.folder)
        return line.append(folder, "dim") if line.cell_len + cell_len(folder) <= width else line

    def _bar(self, width: int) -> Text:
        what, done, total, rest = self._stage, self._steps_done, self._stage_steps, self._pace()
        count = f"{done}/{total}" if total else ""
        if self._progress is not None:
            what, done, total = self._progress
            count, rest = f"{done:,}/{total:,}", []
        what = what[:24]
        size = max(4, min(44, width - 56))
        line = Text(what + GAP)
        filled = round(size * done / max(1, total))
        line.append("━" * filled, "cyan").append("─" * (size - filled), "dim").append(GAP + count)
        for words in rest:  # the longest that fits
            if line.cell_len + len(GAP) + len(words) <= width:
                return line.append(GAP + words, "dim")
        return line

    def _pace(self) -> list[str]:
        """How fast it goes and how long it will take, in fewer and fewer words."""
        left = self._stage_steps - self._steps_done
        if not self._paces or left <= 0:
            return []
        pace = math.fsum(self._paces) / len(self._paces)
        rest = span(max(0.0, pace * left - (self._clock() - self._stepped)))
        return [f"{number(pace)} s a step, {rest} left", f"{rest} left", rest]

    def _wait(self) -> list[Text]:
        """What is waited for, once that takes its time."""
        if self._waiting is None:
            return []
        seconds = self._clock() - self._waiting[2]
        return [Text(f"{self._waiting[1]}, {span(seconds)}", "dim")] if seconds >= PATIENCE else []

    def _rows(self) -> int:
        """Rows of metrics, each of which has at least one line."""
        return len(self._described())

    def _described(self) -> list[tuple[str, str, list[tuple[str, str]]]]:
        """Rows of metrics: label, key of its value, (name, key) of its parts."""
        rows: list[tuple[str, str, list[tuple[str, str]]]] = []
        for label, key in (("loss", "loss"), ("reward", "reward"), ("gate λ", "gate")):
            if key in self._last:
                rows.append((label, key, self._parts(f"{key}/")))
        kl = self._parts("kl/")
        if kl:
            rows.append(("KL", "", kl))
        if "tokens_per_second" in self._last:
            rows.append(("tokens/s", "tokens_per_second", []))
        return rows

    def _metrics(self, width: int) -> list[Text]:
        """The last step's values with their curves; parts that do not fit beside them go on below."""
        rows = self._described()
        numbers = [self._number(key) if key else Text("") for _, key, _ in rows]
        column = max([6, *(each.cell_len for each in numbers)])
        bars = 24 if width >= ROOMY else 12 if width >= NARROW else 0
        indent = LABEL + len(GAP) + column + (bars + len(GAP) if bars else 0)
        lines: list[Text] = []
        for (label, key, parts), value in zip(rows, numbers, strict=True):
            line = Text.assemble((label.ljust(LABEL) + GAP, "dim"), " " * (column - value.cell_len), value)
            if bars:
                line.append(GAP + self._spark(key, bars).ljust(bars), "cyan")
            room = width - indent - len(GAP)
            units = self._units(parts, room if width >= ROOMY else 0) if parts else self._lengths(key)
            lines += _beside(line, units, width=width, indent=indent)
        return lines

    def _parts(self, prefix: str) -> list[tuple[str, str]]:
        found = [key for key in self._last if key.startswith(prefix) and key.count("/") == 1]
        return [(key.removeprefix(prefix), key) for key in sorted(found, key=lambda key: key not in FACTORS)]

    def _units(self, parts: Sequence[tuple[str, str]], room: int) -> list[Text]:
        """Each part's name, value and, where all fit in `room` cells with them, curves of one length."""
        units = [
            Text.assemble((f"{printable(name)} ", STYLES.get(name, "dim")), self._number(key, plain=True))
            for name, key in parts
        ]
        spare = room - sum(unit.cell_len for unit in units) - len(GAP) * (len(units) - 1)
        bars = min(8, spare // max(1, len(units)) - 1)
        if bars >= 4:
            for unit, (name, key) in zip(units, parts, strict=True):
                unit.append(f" {self._spark(key, bars)}", STYLES.get(name, "cyan"))
        return units

    def _lengths(self, key: str) -> list[Text]:
        if key != "tokens_per_second":
            return []
        rates = {name: self._last.get(f"learned/{name}_tokens_per_second", 0.0) for name in STYLES}
        words = [Text.assemble((f"{name} ", STYLES[name]), number(rate)) for name, rate in rates.items() if rate]
        if "samples_per_second" in self._last:
            words.append(Text(f"rows/s {number(self._last['samples_per_second'])}"))
        if "mfu" in self._last:
            words.append(Text(f"MFU {self._last['mfu']:.0%}"))
        if "rollout_length" in self._last:
            words.append(Text(f"length {number(self._last['rollout_length'])}"))
        if "truncated" in self._last:
            words.append(Text(f"cut off {self._last['truncated']:.0%}"))
        return words

    def _number(self, key: str, *, plain: bool = False) -> Text:
        value = self._last[key]
        style = "" if plain else "bold"
        return Text(number(value), style) if math.isfinite(value) else Text("nan", "bold red")

    def _spark(self, key: str, bars: int) -> str:
        return sparkline(tuple(self._history.get(key, ())), bars)

    def _answer(self) -> list[Text]:
        if self._rollout is None:
            return []
        question, answer, reward = self._rollout
        said = "said   " if reward is None else f"said ({number(reward)})  "
        return [
            Text.assemble(("asked  ", "dim"), question),
            Text.assemble((said, "dim"), (answer, STYLES["text"])),
        ]


@final
class _View:
    """Draws a board at the size of the console it is drawn on."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._size: tuple[int, int] | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        size = (console.size.width, console.size.height)
        if self._size not in (None, size):
            # The terminal has wrapped what stood there, so that nobody knows how many lines it takes now: start afresh.
            yield Control.clear()
            yield Control.home()
        self._size = size
        yield self._board.draw(options.max_width, options.max_height)


def _shared(wanted: Mapping[str, int], room: int, *, base: int) -> dict[str, int]:
    """How many of `room` lines each part gets; `base` is the number of the metrics' rows."""
    given = dict.fromkeys(wanted, 0)
    shares = (
        ("table", 3), ("metrics", min(3, base)), ("table", LEAST_TABLE), ("metrics", base), ("gap", 1), ("answer", 2),
        ("gap", 3), ("metrics", wanted["metrics"]), ("table", wanted["table"]),
    )  # fmt: skip
    for name, most in shares:
        more = min(most, wanted[name]) - given[name]
        if name == "answer" and more > room:
            continue
        more = max(0, min(more, room))
        given[name] += more
        room -= more
    return given


def _beside(line: Text, units: Sequence[Text], *, width: int, indent: int) -> list[Text]:
    """`line` with `units` behind it, whole ones only; what does not fit goes on in further lines."""
    lines = [line]
    for unit in units:
        if lines[-1].cell_len + len(GAP) + unit.cell_len > width:
            # Where the column is narrow, the whole line is the better place.
            start = indent if indent + len(GAP) + max(each.cell_len for each in units) <= width else LABEL
            lines.append(Text(" " * start))
        lines[-1].append(GAP).append_text(unit)
    for each in lines:
        each.rstrip()
    return lines


def _cut(line: Text, width: int) -> Text:
    """`line` in at most `width` cells, on one line."""
    line.truncate(width, overflow="ellipsis")
    line.no_wrap, line.overflow = True, "ellipsis"
    return line
