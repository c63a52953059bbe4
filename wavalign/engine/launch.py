"""The processes of a run: started together, stopped together, and which of them is to blame.

A worker finds its place in RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Each runs in a session of its
own, so that Ctrl-C reaches it once, from here, and not a second time from the terminal. Those of other machines are
`Worker`s too (`nodes/head.py`).
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol, final

from wavalign.engine.causes import NATIVE, Machine
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
ASKED_GRACE = 20.0
"""Seconds after which those that stop because they were asked to learn that one of them has ended before them."""
TAIL = 40
"""Last lines of a failed worker that are shown."""
_POLL = 0.05
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_ONE_LOST = b"L"


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
    node: str = ""
    """The machine of that worker, where there are several."""
    cause: str = field(default="", compare=False)
    """What its machine says of the signal; or, without one, how the machine was lost."""


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


class Worker(Protocol):
    """One rank that was started, here or elsewhere."""

    node: str
    """Its machine, empty where all are on this one."""
    cause: str
    """What is known of its end beside the exit code."""

    def poll(self) -> int | None:
        """The exit code, minus the signal where one ended it; None while it runs."""

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""

    def tell_lost(self) -> None:
        """Let it wait for the others no longer: one of them is gone."""

    def kill(self) -> None:
        """End it whatever it does, and let go of it."""


def launch(
    worker: Sequence[str], place: Place, *, processes: int, env: Mapping[str, str], threads: int | None = None
) -> Ended:
    """Run `python *worker` as `processes` ranks of this machine to their end.

    Rank 0 writes to this terminal, rank N to `logs/rank-N.log`, whose tail is shown when it is to blame. Without
    `threads` the cores are divided among the ranks. SIGINT, SIGTERM, SIGHUP and SIGUSR1 go to every rank once; a second
    one of them kills the ranks, but for SIGUSR1, which only announces one. Workers whose launcher ends are sent SIGTERM
    (`watch_launcher`). Call it in the main thread.
    """
    shared = {
        **env,
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": str(threads_each(threads, processes)),
    }
    group, machine = Group(place), Machine()
    with group.forwarded_signals():
        try:
            for rank in range(processes):
                ranked = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                group.add(LocalWorker(worker, ranked, place, machine=machine))
            return group.wait()
        finally:
            group.kill()


def threads_each(threads: int | None, processes: int) -> int:
    """Threads of each of `processes` on this machine: as asked, or the cores divided among them."""
    return threads or max(1, len(os.sched_getaffinity(0)) // processes)


def watch_launcher(lost: Callable[[], None] = lambda: None, environment: Mapping[str, str] = os.environ) -> None:
    """In a worker: take the end of the launcher for SIGTERM, so that no worker runs on alone.

    `lost` is called, in a thread of its own, when the launcher says that another worker is gone.
    """
    if LAUNCHER not in environment:
        return
    pipe = int(environment[LAUNCHER])

    def wait() -> None:
        while os.read(pipe, 1) == _ONE_LOST:  # else the other end is closed
            threading.Thread(target=lost, name="lost", daemon=True).start()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHANED)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="launcher", daemon=True).start()


@final
class LocalWorker:
    """A rank of this machine."""

    def __init__(
        self,
        worker: Sequence[str],
        env: Mapping[str, str],
        place: Place,
        *,
        machine: Machine,
        output: int | None = None,
    ) -> None:
        """Start `python *worker` with `env`, with its RANK; the first one writes to `output`, or this terminal."""
        self.node, self.cause = "", ""
        self._machine = machine
        reading, self._pipe = os.pipe()
        try:
            if int(env["RANK"]) == 0:
                self._process = _popen(worker, {**env, LAUNCHER: str(reading)}, place, outputs=(output, None))
                return
            place.logs.mkdir(exist_ok=True)
            with log_of(place.logs, int(env["RANK"])).open("wb") as log:
                # Unbuffered: the file must hold everything, in order, also when the worker is killed.
                changed = {**env, LAUNCHER: str(reading), "PYTHONUNBUFFERED": "1"}
                self._process = _popen(worker, changed, place, outputs=(log.fileno(), log.fileno()))
        finally:
            os.close(reading)

    def poll(self) -> int | None:
        code = self._process.poll()
        if code is not None and code < 0 and not self.cause:
            self.cause = self._machine.cause(-code)
        return code

    def send_signal(self, number: int) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)

    def tell_lost(self) -> None:
        with suppress(BrokenPipeError):  # it has ended
            os.write(self._pipe, _ONE_LOST)

    def orphan(self) -> None:
        """Let it take its launcher for gone: it ends its step, writes its checkpoint and stops."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self.orphan()


def _popen(
    worker: Sequence[str], env: Mapping[str, str], place: Place, *, outputs: tuple[int | None, int | None]
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, *worker],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=outputs[0],
        stderr=outputs[1],
        start_new_session=True,
        pass_fds=(int(env[LAUNCHER]), *place.keep),
    )


@final
class Group:
    """The workers of a run, by rank, and what is done when one of them ends."""

    def __init__(self, place: Place, *, between: Callable[[], None] = lambda: None) -> None:
        """`between` is called again and again while it waits."""
        self._place, self._between = place, between
        self._workers: list[Worker] = []
        self._signals: list[int] = []
        self._since = 0.0

    @property
    def asked(self) -> int:
        """The first signal that came, 0 for none."""
        return self._signals[0] if self._signals else 0

    def add(self, worker: Worker) -> None:
        """Take in the worker of the next rank."""
        self._workers.append(worker)

    def wait(self) -> Ended:
        """Wait for all; when one fails the others are stopped."""
        while True:
            codes = self._codes()
            failed = [rank for rank, code in enumerate(codes) if code]
            if failed and not self._may_name_another(codes):
                return self._after_failure(failed)
            if None not in codes:
                return Ended(0)
            time.sleep(_POLL)

    def _codes(self) -> list[int | None]:
        self._between()
        return [worker.poll() for worker in self._workers]

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
        began, told = time.monotonic(), False
        while None in self._codes():
            passed = time.monotonic() - began
            if passed > GRACE and not self._signals and not self._place.is_writing():
                break
            if not told and passed > (ASKED_GRACE if self._signals else 0.0):
                told = True
                self._tell_lost()
            time.sleep(_POLL)
        self.kill()
        asked, rank = self.asked, self._to_blame(failed)
        blamed = self._workers[rank]
        code = blamed.poll() or 0
        if rank > 0 and not asked and (code > 0 or -code in NATIVE):
            self._show_tail(rank)
        killed_by = max(0, -code) if not asked else 0
        return Ended(_exit_code(code), rank, killed_by, asked, blamed.node, "" if asked else blamed.cause)

    def _to_blame(self, failed: Sequence[int]) -> int:
        """Of all that failed the one that did not merely lose another or was stopped from here."""

        def innocence(rank: int) -> tuple[bool, bool, bool, bool, int]:
            code, late = self._workers[rank].poll() or 0, rank not in failed
            stopped = late and code in (-signal.SIGTERM, -signal.SIGKILL, 128 + signal.SIGTERM)
            return (code == 0 or stopped, code == LOST, late, code > 0, rank)

        return min(range(len(self._workers)), key=innocence)

    def kill(self) -> None:
        """End whatever still runs."""
        for worker in self._workers:
            worker.kill()

    @contextmanager
    def forwarded_signals(self) -> Iterator[None]:
        """While inside, signals are for the workers, but for those that are to be ignored (`nohup`)."""

        def forward(number: int, _frame: FrameType | None) -> None:
            again = number != signal.SIGUSR1 and any(each != signal.SIGUSR1 for each in self._signals)
            self._signals.append(number)
            self._send(signal.SIGKILL if again else signal.Signals(number))

        mine = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        previous = {number: signal.signal(number, forward) for number in mine}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _send(self, number: signal.Signals) -> None:
        for worker in self._workers:
            worker.send_signal(number)

    def _tell_lost(self) -> None:
        for worker in self._workers:
            if worker.poll() is None:
                worker.tell_lost()

    def _show_tail(self, rank: int) -> None:
        log = log_of(self._place.logs, rank)
        if not log.exists():  # a worker of a machine that never started it
            return
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        if not any(line.strip() for line in lines):
            return
        text = "\n".join([f"process {rank} failed; the end of {log}:", *lines[-TAIL:]])
        sys.stderr.write(presentable(text) + "\n")


def log_of(logs: Path, rank: int) -> Path:
    """What a rank other than the first said."""
    return logs / f"rank-{rank}.log"


def _exit_code(code: int) -> int:
    """Of a worker, as a shell would say it; one that merely lost another ends as a run that failed."""
    return 1 if code == LOST else 128 - code if code < 0 else code


def free_port(host: str = "127.0.0.1") -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
