"""Who waits for whom: a thread beside each rank that ends a wait which lasts too long, and says whose fault it is.

A rank notes every meeting with the others: its number, what for, since when. The first whose wait outlasts its patience
announces that in the store by which the ranks found one another; every rank answers with where it is and its main
thread's stack. Who has not come to that meeting is missing: it writes its stack to its log and ends; the others lose it
and say so. One that does not answer at all is stopped, gone, or in native code that holds the interpreter.
"""

import atexit
import json
import os
import socket
import stat
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol, final

import torch.distributed as dist

from wavalign.terminal import presentable

POLL = 1.0
"""Seconds between two looks at the clock and the store."""
ANSWER = 5.0
"""Seconds that ranks have to say where they are."""
LET = 3.0
"""Seconds in which a wait for a rank that is gone may end by itself."""
HUNG = 1
"""Exit code of a rank that did not come to a meeting."""
_MOST_FRAMES = 40


class Store(Protocol):
    """What of a store is used; keys and values of all ranks."""

    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def check(self, keys: list[str], /) -> bool: ...
    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes: ...


class OwnStore(Store, Protocol):
    """A connection to it that is one's own."""

    def delete_key(self, key: str, /) -> bool: ...


@final
@dataclass(frozen=True, slots=True)
class Meeting:
    """Where a rank is."""

    number: int
    """How many meetings it has come to."""
    doing: str = ""
    """What for; empty outside of one."""
    since: float = 0.0
    """Monotonic seconds at which it came."""


@final
class Watch:
    """The meetings of this rank, and the threads that watch them."""

    def __init__(self, store: Store, *, rank: int, size: int, patience: float) -> None:
        """`patience` is in seconds."""
        self._store, self._rank, self._size, self._patience = store, rank, size, patience
        self._thread_id = threading.get_ident()
        self._closed = threading.Event()
        self._now = Meeting(0)
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=each, name="watch", daemon=True) for each in (self._ask, self._count)]
        self.verdict = ""
        """What was found once some wait outlasted its patience."""

    def start(self) -> None:
        """Watch the thread that calls this."""
        self._thread_id = threading.get_ident()
        atexit.register(self.close)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Watch no longer; at once."""
        self._closed.set()

    def close(self) -> None:
        """Stop, and wait for the threads: one left in native code at the interpreter's end would abort the process."""
        self._closed.set()
        atexit.unregister(self.close)
        for thread in self._threads:
            thread.join(ANSWER + POLL)

    @contextmanager
    def meeting(self, doing: str) -> Iterator[None]:
        """Inside, this rank waits for the others."""
        outer = self._now
        self._now = Meeting(outer.number + 1, doing, time.monotonic())
        try:
            yield
        finally:
            self._now = Meeting(self._now.number, outer.doing, outer.since)

    # --- the threads --------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        """Look into the store again and again; whoever holds it may stand still, and let this thread wait for ever."""
        while not self.verdict and not self._closed.wait(POLL):
            now = self._now
            try:
                self._look(now, overdue=self._overdue(now) > 0)
            except RuntimeError:  # the first rank, or the launcher that holds the store, has ended
                return

    def _count(self) -> None:
        """End a wait of which the store should long have told."""
        while not self.verdict and not self._closed.wait(POLL):
            now = self._now
            if self._overdue(now) > 2 * (ANSWER + POLL):
                self._end(f"{self._waited(now)}; the process that holds the meeting point does not answer")

    def _overdue(self, now: Meeting) -> float:
        """Seconds by which a wait has outlasted this rank's patience."""
        return time.monotonic() - now.since - self._patience if now.doing else -1.0

    def _look(self, now: Meeting, *, overdue: bool) -> None:
        if overdue and not self._store.check(["overdue"]):
            said = json.dumps({"rank": self._rank, "number": now.number, "doing": now.doing, "text": self._waited(now)})
            self._store.compare_set("overdue", "", said)
        if not self._store.check(["overdue"]):
            return
        first = json.loads(self._store.get("overdue"))
        here = {"number": self._now.number, "doing": self._now.doing, "pid": os.getpid(), "host": socket.gethostname()}
        self._store.set(f"where/{self._rank}", json.dumps(here))
        answers = self._answers()
        missing = [rank for rank in range(self._size) if not _came(answers.get(rank), int(first["number"]))]
        self._end(_verdict(first, missing, answers), missing=missing)

    def _answers(self) -> dict[int, Mapping[str, Any]]:
        """Where the ranks are that say so in time."""
        end = time.monotonic() + ANSWER
        while True:
            there = [rank for rank in range(self._size) if self._store.check([f"where/{rank}"])]
            if len(there) == self._size or time.monotonic() > end:
                return {rank: json.loads(self._store.get(f"where/{rank}")) for rank in there}
            time.sleep(0.1)

    def _waited(self, now: Meeting) -> str:
        seconds = time.monotonic() - now.since
        since = datetime.now().astimezone() - timedelta(seconds=seconds)
        place = f"process {self._rank} ({socket.gethostname()})"
        return f"{place} has waited in {now.doing} (the {now.number}th) since {since:%H:%M:%S}, {seconds:.0f} s"

    def _end(self, verdict: str, *, missing: Sequence[int] = ()) -> None:
        with self._lock:
            if self.verdict or self._closed.is_set():
                return
            self.verdict = verdict
        stack = self._stack()
        if self._rank in missing:
            sys.stderr.write(presentable(f"{verdict}\nprocess {self._rank} stands here:\n{stack}") + "\n")
            sys.stderr.flush()
            time.sleep(LET)  # the others look for it once more before they lose it
            os._exit(HUNG)  # its main thread cannot be reached; the others lose it and write what can be written
        sys.stderr.write(presentable(f"process {self._rank} waits here:\n{stack}") + "\n")
        sys.stderr.flush()
        free_waiting(self._closed)

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._thread_id)  # there is no other way to a thread's stack
        return "".join(traceback.format_stack(frame)[-_MOST_FRAMES:]).rstrip() if frame is not None else ""


def _came(answer: Mapping[str, Any] | None, number: int) -> bool:
    """Whether a rank is in meeting `number`, or beyond it."""
    return answer is not None and (answer["number"] > number or (answer["number"] == number and bool(answer["doing"])))


def _verdict(first: Mapping[str, Any], missing: Sequence[int], answers: Mapping[int, Mapping[str, Any]]) -> str:
    if not missing:
        return f"{first['text']}; all processes came: what connects them is at fault"
    said = []
    for rank in missing:
        answer = answers.get(rank)
        if answer is None:
            said.append(f"process {rank} does not answer: it is stopped, gone, or in native code")
        else:
            said.append(f"process {rank} ({answer['host']}, pid {answer['pid']}) has not come; its log has its stack")
    return f"{first['text']}; {'; '.join(said)}"


def free_waiting(done: threading.Event | None = None) -> None:
    """Let every wait for another rank fail now and from now on, by closing what connects this process; never returns
    before `done` is set.

    A library that waits in native code hears of nothing else. The process is about to end: nothing else needs them.
    """
    finished = done if done is not None else threading.Event()
    time.sleep(LET)
    while not finished.is_set():
        for number in _connections():
            with suppress(OSError), socket.socket(fileno=os.dup(number)) as connection:
                connection.shutdown(socket.SHUT_RDWR)
        finished.wait(POLL)


def _connections() -> Iterator[int]:
    """Descriptors of sockets with another end; to shut down one that listens would abort the library."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # closed meanwhile
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as connection:
                    connection.getpeername()
                yield int(name)


def store_of(address: str, port: int) -> OwnStore:
    """A connection of its own to the store by which the ranks found one another."""
    there: OwnStore = dist.TCPStore(  # type: ignore[attr-defined]
        address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=ANSWER)
    )
    return there
