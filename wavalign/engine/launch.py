"""The processes of a run on this machine: started together, stopped together.

A worker finds its place in RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Each runs in a session of its
own, so that Ctrl-C reaches it once, from here, and not a second time from the terminal.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import final

from wavalign.errors import LOST
from wavalign.terminal import presentable

GRACE = 15.0
"""Seconds that workers have to stop once one of them failed, beyond those in which a checkpoint is written."""
LAUNCHER = "WAVALIGN_LAUNCHER"
"""Names the descriptor of a pipe in the workers' environment: it is closed when their launcher has ended."""
LAST_WORDS = 3.0
"""Seconds that a worker has to say why it failed once others have lost it."""
ORPHANED = 1800.0
"""Seconds that a worker without a launcher has for its step and its checkpoint."""
TAIL = 40
"""Last lines of a failed worker that are shown."""
_POLL = 0.05
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@final
@dataclass(frozen=True, slots=True)
class Ended:
    """How the workers ended."""

    code: int
    """0, or the exit code of the worker that is to blame; 128 + signal of one that a signal ended."""
    rank: int = 0
    """Which one that is."""
    killed_by: int = 0
    """The signal that ended it and was not sent from here."""
    asked: int = 0
    """The first signal that this process was sent meanwhile."""


@final
@dataclass(frozen=True, slots=True)
class Place:
    """Where workers run."""

    logs: Path
    """Folder of what ranks other than the first say."""
    keep: tuple[int, ...] = ()
    """Open descriptors that they inherit."""
    is_writing: Callable[[], bool] = lambda: False
    """Whether a checkpoint is being written, which nobody cuts short."""


def launch(
    worker: Sequence[str], place: Place, *, processes: int, env: Mapping[str, str], threads: int | None = None
) -> Ended:
    """Run `python *worker` as `processes` ranks to their end.

    Rank 0 writes to this terminal, rank N to `logs/rank-N.log`, whose tail is shown when it is to blame. Without
    `threads` the cores are divided among the ranks. SIGINT, SIGTERM and SIGHUP go to every rank once; a second one of
    them kills the ranks. Workers whose launcher ends are sent SIGTERM (`watch_launcher`). Call it in the main thread.
    """
    count = threads or max(1, len(os.sched_getaffinity(0)) // processes)
    shared = {
        **env,
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": str(count),
    }
    group = _Group(worker, place)
    with _pipe() as (alive, shared[LAUNCHER]), group.forwarded_signals():
        try:
            for rank in range(processes):
                group.start(rank, shared, alive)
            return group.wait()
        finally:
            group.kill()


def watch_launcher(environment: Mapping[str, str] = os.environ) -> None:
    """In a worker: take the end of the launcher for SIGTERM, so that no worker runs on alone."""
    if LAUNCHER not in environment:
        return
    pipe = int(environment[LAUNCHER])

    def wait() -> None:
        os.read(pipe, 1)  # nothing ever comes: it returns when the other end is closed
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHANED)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="launcher", daemon=True).start()


@contextmanager
def _pipe() -> Iterator[tuple[int, str]]:
    """The end that workers read, as a number and as text; the other end is this process's alone."""
    reading, writing = os.pipe()
    try:
        yield reading, str(reading)
    finally:
        os.close(reading)
        os.close(writing)


@final
class _Group:
    """The workers that were started, by rank."""

    def __init__(self, worker: Sequence[str], place: Place) -> None:
        self._command = [sys.executable, *worker]
        self._place, self._logs = place, place.logs
        self._workers: list[subprocess.Popen[bytes]] = []
        self._signals: list[int] = []
        self._since = 0.0

    def start(self, rank: int, env: Mapping[str, str], alive: int) -> None:
        environment = {**env, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        if rank == 0:
            self._workers.append(self._popen(environment, None, alive))
            return
        self._logs.mkdir(exist_ok=True)
        with self._log(rank).open("wb") as log:
            # Unbuffered: the file must hold everything, in order, also when the worker is killed.
            self._workers.append(self._popen({**environment, "PYTHONUNBUFFERED": "1"}, log.fileno(), alive))

    def wait(self) -> Ended:
        """Wait for all; when one fails the others are stopped."""
        while True:
            codes = [worker.poll() for worker in self._workers]
            failed = [rank for rank, code in enumerate(codes) if code]
            if failed and not self._may_name_another(codes):
                return self._after_failure(failed)
            if None not in codes:
                return Ended(0)
            time.sleep(_POLL)

    def _may_name_another(self, codes: Sequence[int | None]) -> bool:
        """Whether all that failed merely lost another, which has a moment to end by itself."""
        if set(codes) - {None, 0, LOST} or None not in codes or self._signals:
            return False
        self._since = self._since or time.monotonic()
        return time.monotonic() - self._since < LAST_WORDS

    def _after_failure(self, failed: Sequence[int]) -> Ended:
        if not self._signals:
            self._send(signal.SIGTERM)
        # A signal from outside leaves the others the time to write their checkpoint.
        end = time.monotonic() + GRACE
        while any(worker.poll() is None for worker in self._workers):
            if time.monotonic() > end and not self._signals and not self._place.is_writing():
                break
            time.sleep(_POLL)
        self.kill()
        asked = self._signals[0] if self._signals else 0
        rank = self._to_blame(failed)
        code = self._workers[rank].returncode
        if rank > 0 and not asked and code > 0:
            self._show_tail(rank)
        return Ended(_exit_code(code), rank, killed_by=max(0, -code) if not asked else 0, asked=asked)

    def _to_blame(self, failed: Sequence[int]) -> int:
        """Of all that failed the one that did not merely lose another or was stopped from here."""

        def innocence(rank: int) -> tuple[bool, bool, bool, bool, int]:
            code, late = self._workers[rank].returncode, rank not in failed
            stopped = late and code in (-signal.SIGTERM, -signal.SIGKILL, 128 + signal.SIGTERM)
            return (code == 0 or stopped, code == LOST, late, code > 0, rank)

        return min(range(len(self._workers)), key=innocence)

    def kill(self) -> None:
        """End whatever still runs."""
        for worker in self._workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()

    @contextmanager
    def forwarded_signals(self) -> Iterator[None]:
        """While inside, signals are for the workers, but for those that are to be ignored (`nohup`)."""

        def forward(number: int, _frame: FrameType | None) -> None:
            self._signals.append(number)
            self._send(signal.SIGKILL if len(self._signals) > 1 else signal.Signals(number))

        mine = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        previous = {number: signal.signal(number, forward) for number in mine}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _send(self, number: signal.Signals) -> None:
        for worker in self._workers:
            if worker.poll() is None:
                worker.send_signal(number)

    def _popen(self, env: Mapping[str, str], output: int | None, alive: int) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            self._command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=(alive, *self._place.keep),
        )

    def _log(self, rank: int) -> Path:
        return self._logs / f"rank-{rank}.log"

    def _show_tail(self, rank: int) -> None:
        lines = self._log(rank).read_text(encoding="utf-8", errors="replace").splitlines()
        if not any(line.strip() for line in lines):
            return
        text = "\n".join([f"process {rank} failed; the end of {self._log(rank)}:", *lines[-TAIL:]])
        sys.stderr.write(presentable(text) + "\n")


def _exit_code(code: int) -> int:
    """Of a worker, as a shell would say it; one that merely lost another ends as a run that failed."""
    return 1 if code == LOST else 128 - code if code < 0 else code


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
