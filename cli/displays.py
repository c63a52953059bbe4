"""What a person sees while a run goes: a dashboard on a terminal, one line per step in a pipe, nothing when quiet.

A display never stops a run and never leaves a terminal behind without its cursor.
"""

import atexit
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO, final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from wavalign.engine.report.plots import number
from wavalign.engine.run.observers import Display, Observer, RunInfo, Silent

from .dashboard import Board, printable, span
from .held_out import HeldOut, measures, shown_number

REFRESHES = 4
"""Redraws a second."""
QUIET_SECONDS = 30.0
"""Seconds without a line before a pipe is told what is waited for; then after twice, four times, ... as many."""


def make_display(*, quiet: bool, stream: TextIO, environment: Mapping[str, str]) -> Observer:
    """What suits `stream`: nothing when quiet, a dashboard on a capable terminal, else plain lines."""
    if quiet:
        return Silent()
    encoding = (stream.encoding or "").lower().replace("-", "")
    if stream.isatty() and environment.get("TERM", "") not in ("", "dumb", "unknown") and encoding == "utf8":
        # NO_COLOR counts by being there and not empty, whatever it says.
        console = Console(file=stream, no_color=bool(environment.get("NO_COLOR")), highlight=False)
        return RichDisplay(console)
    return PlainDisplay(stream)


@final
class PlainDisplay(Display):
    """One line per event, aligned, without control codes; falls silent when nobody reads any more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream
        self._steps = 0
        self._widths: dict[str, int] = {}
        self._progress = ""
        self._held_out = HeldOut()
        self._patience = _Patience(self._still)

    def start(self, run: RunInfo) -> None:
        self._held_out.restore(Path(run.folder) / "metrics.jsonl")
        facts = [f"seed {run.seed}" if run.seed is not None else "", run.hardware, f"{run.total_steps} steps"]
        self._say(f"run {run.name}: " + ", ".join(fact for fact in facts if fact))
        self._say(f"folder {run.folder}")

    def stage(self, name: str, steps: int) -> None:
        self._steps = steps
        self._say(f"stage {name}: {steps} steps")

    def step(self, values: Mapping[str, float], steps_done: int) -> None:
        parts = [f"step {steps_done:>{len(str(self._steps))}}/{self._steps}"]
        for key in step_keys(values):
            text = f"{key} {_ascii(values[key]):>8}"
            self._widths[key] = max(self._widths.get(key, 0), len(text))
            parts.append(text.ljust(self._widths[key]))
        self._say("  ".join(parts))

    def evaluation(self, split: str, values: Mapping[str, float], when: str) -> None:
        self._held_out.take(printable(split), {printable(name): each for name, each in values.items()}, when)
        found = measures(values)
        name_width = max((len(name) for name in found), default=0)
        self._say(f"held-out {split}, {when} of the stage:")
        for name, part in found.items():
            gold = f"gold {shown_number(part.gold):>8}" if part.gold is not None else ""
            count = f"n {part.count}" if part.count is not None else ""
            value = f"{name:<{name_width}}  {shown_number(part.value):>8}"
            self._say(_plain(f"  {value}  {part.interval:<20}  {gold:<13}  {count}"))

    def changed(self, split: str, found: Mapping[str, float]) -> None:
        """One line: what differs from the start on the same items."""
        split = printable(split)
        self._held_out.compare(split, {printable(name): p for name, p in found.items()})
        changes = ", ".join(self._held_out.changes(split))
        self._say(_plain(f"  since the start, on the same items: {changes or 'no difference shown'}"))

    def rollout(self, question: str, answer: str, reward: float | None) -> None:
        score = f"  (reward {_ascii(reward)})" if reward is not None else ""
        self._say(f"  asked: {printable(question)}")
        self._say(f"  said:  {printable(answer)}{score}")

    def message(self, text: str) -> None:
        self._say(text)

    def progress(self, what: str, done: int, total: int) -> None:
        """One line when something begins and one when it is through."""
        if done >= total:
            self._say(f"{what}: {done}/{total}")
            self._progress = ""
        elif what != self._progress:
            self._progress = what
            self._say(f"{what}: {done}/{total} ...")

    def waiting(self, what: str, done: int, total: int) -> None:
        self._patience.wait_for(printable(what), done, total)

    def finish(self, summary: str) -> None:
        self._say("finished")
        for row in self._held_out.table(None):
            self._say(_plain(row.plain))
        for line in summary.splitlines():
            self._say(line)

    def close(self) -> None:
        self._patience.close()
        self._stream = None

    def _still(self, text: str) -> None:
        self._say(f"still at {text}", patient=True)

    def _say(self, text: str, *, patient: bool = False) -> None:
        if not patient:
            self._patience.restart()
        if self._stream is None:
            return
        encoding = self._stream.encoding or "utf-8"
        line = printable(text, keep_indent=True).rstrip().encode(encoding, errors="replace").decode(encoding)
        try:
            self._stream.write(f"{line}\n")
            self._stream.flush()
        except OSError:
            self._stream = None  # the reader went away (`| head`); the run goes on


@final
class _Patience:
    """Says what is waited for when nothing was said for long; one thread, started with the first thing waited for."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._lock = threading.Lock()
        self._what: tuple[str, float, str] | None = None
        self._after = QUIET_SECONDS
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def wait_for(self, what: str, done: int, total: int) -> None:
        """The run is busy with `what`; empty for nothing in particular."""
        with self._lock:
            count = f" {done}/{total}" if total else ""
            known = self._what is not None and self._what[0] == what
            began = self._what[1] if self._what is not None and known else self._clock()
            self._what = (what, began, count) if what else None
            if not known:
                self._after = QUIET_SECONDS
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="patience", daemon=True)
            self._thread.start()

    def restart(self) -> None:
        """A line was printed: wait anew."""
        with self._lock:
            self._what, self._after = None, QUIET_SECONDS

    def close(self) -> None:
        """Say no more."""
        self._ended.set()

    def tell(self) -> None:
        """Say what is waited for if it is time to."""
        with self._lock:
            if self._what is None or (seconds := self._clock() - self._what[1]) < self._after:
                return
            what, _, count = self._what
            self._after *= 2
        self._say(f"{what}{count}, {span(seconds)}")

    def _work(self) -> None:
        while not self._ended.wait(1.0):
            self.tell()


@final
class RichDisplay(Display):
    """A dashboard that redraws in place; messages scroll above it, and what stands at the end is everything."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.board = Board(clock)
        self._console = console
        self._live: Live | None = None

    def start(self, run: RunInfo) -> None:
        self.board.start(run)
        live = Live(
            console=self._console,
            get_renderable=self.board.view,
            refresh_per_second=REFRESHES,
            vertical_overflow="crop",
            transient=True,  # the last picture, which is cut to the terminal, gives way to the whole one
        )
        atexit.register(self.close)
        self._guard(live.start)
        self._live = live

    def stage(self, name: str, steps: int) -> None:
        self.board.stage(name, steps)

    def step(self, values: Mapping[str, float], steps_done: int) -> None:
        self.board.step(values, steps_done)

    def evaluation(self, split: str, values: Mapping[str, float], when: str) -> None:
        self.board.evaluation(split, values, when)

    def rollout(self, question: str, answer: str, reward: float | None) -> None:
        self.board.rollout(question, answer, reward)

    def message(self, text: str) -> None:
        self._print(Text(printable(text)))

    def changed(self, split: str, found: Mapping[str, float]) -> None:
        self.board.changed(split, found)

    def alarm(self, split: str, found: Sequence[str]) -> None:
        """Leave it standing on the board, and above it where it scrolls away, as long as the split is so."""
        self.board.alarm(split, found)
        for text in found:
            self.message(text)

    def progress(self, what: str, done: int, total: int) -> None:
        self.board.progress(what, done, total)

    def waiting(self, what: str, done: int, total: int) -> None:
        self.board.waiting(what, done, total)

    def finish(self, summary: str) -> None:
        """Leave the whole result standing and say what to look at next."""
        self._stop()
        for line in summary.splitlines():
            self._print(Text(printable(line, keep_indent=True)))

    def close(self) -> None:
        self._stop()
        atexit.unregister(self.close)

    def _stop(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            self.board.waiting("", 0, 0)
            self._guard(live.stop)
            self._guard(lambda: self._console.print(self.board.result(self._console.width), soft_wrap=True))

    def _print(self, line: Text) -> None:
        self._guard(partial(self._console.print, line, soft_wrap=True))

    def _guard(self, action: Callable[[], None]) -> None:
        """Do `action` on the terminal; one that is gone (closed window, broken pipe) ends the display, not the run."""
        try:
            action()
        except (OSError, ValueError):  # ValueError: the stream was closed
            self._live = None


def step_keys(values: Mapping[str, float]) -> list[str]:
    """What one plain line says of a step, in order: losses, gate, rewards, KL, speed."""
    speed = ("tokens_per_second", "mfu", "step_seconds")
    wanted = ("loss", "loss/", "gate", "reward", "reward/", "kl/", "truncated", *speed)
    return [
        key
        for name in wanted
        for key in values
        if (key == name or (name.endswith("/") and key.startswith(name))) and not key.endswith(("/failed", "/absent"))
    ]


def _ascii(value: float) -> str:
    return _plain(number(value)) if math.isfinite(value) else str(value)


def _plain(text: str) -> str:
    """Minus and dash as every pipe can carry them."""
    return text.replace("−", "-").replace("–", "-")
