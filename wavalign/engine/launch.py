"""The processes of a run on this machine: started together, stopped together.

A worker finds its place in RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Each runs in a session of its
own, so that Ctrl-C reaches it once, from here, and not a second time from the terminal.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import final

from wavalign.terminal import presentable

GRACE = 15.0
"""Seconds that workers have to stop once one of them failed."""
TAIL = 40
"""Last lines of a failed worker that are shown."""
_POLL = 0.05
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def launch(
    worker: Sequence[str], *, processes: int, env: Mapping[str, str], logs: Path, threads: int | None = None
) -> int:
    """Run `python *worker` as `processes` ranks to their end; gives the exit code of the first one that fails, or 0.

    Rank 0 writes to this terminal, rank N to `logs/rank-N.log`, whose tail is shown when it fails first. Without
    `threads` the cores are divided among the ranks. SIGINT and SIGTERM go to every rank once; a second one of them
    kills the ranks. Call it in the main thread.
    """
    count = threads or max(1, len(os.sched_getaffinity(0)) // processes)
    shared = {
        **env,
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": str(count),
    }
    group = _Group(worker, logs)
    with group.forwarded_signals():
        try:
            for rank in range(processes):
                group.start(rank, shared)
            return group.wait()
        finally:
            group.kill()


@final
class _Group:
    """The workers that were started, by rank."""

    def __init__(self, worker: Sequence[str], logs: Path) -> None:
        self._command = [sys.executable, *worker]
        self._logs = logs
        self._workers: list[subprocess.Popen[bytes]] = []
        self._signals = 0

    def start(self, rank: int, env: Mapping[str, str]) -> None:
        environment = {**env, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        if rank == 0:
            self._workers.append(self._popen(environment, None))
            return
        self._logs.mkdir(parents=True, exist_ok=True)
        with self._log(rank).open("wb") as log:
            # Unbuffered: the file must hold everything, in order, also when the worker is killed.
            self._workers.append(self._popen({**environment, "PYTHONUNBUFFERED": "1"}, log.fileno()))

    def wait(self) -> int:
        """Wait for all; when one fails the others are stopped."""
        while True:
            codes = [worker.poll() for worker in self._workers]
            failed = [rank for rank, code in enumerate(codes) if code]
            if failed:
                # Of several that failed at once, one that a signal ended did not merely lose the others.
                first = min(failed, key=lambda rank: ((codes[rank] or 0) > 0, rank))
                return self._after_failure(first)
            if None not in codes:
                return 0
            time.sleep(_POLL)

    def _after_failure(self, rank: int) -> int:
        if self._signals == 0:
            self._send(signal.SIGTERM)
        # A signal from outside leaves the others the time to write their checkpoint.
        end = time.monotonic() + GRACE if self._signals == 0 else float("inf")
        while any(worker.poll() is None for worker in self._workers) and time.monotonic() < end:
            time.sleep(_POLL)
        if rank > 0 and self._signals == 0:
            self._show_tail(rank)
        code = self._workers[rank].returncode
        return 128 - code if code < 0 else code

    def kill(self) -> None:
        """End whatever still runs."""
        for worker in self._workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()

    @contextmanager
    def forwarded_signals(self) -> Iterator[None]:
        """While inside, SIGINT and SIGTERM are for the workers."""

        def forward(number: int, _frame: FrameType | None) -> None:
            self._signals += 1
            self._send(signal.SIGKILL if self._signals > 1 else signal.Signals(number))

        previous = {number: signal.signal(number, forward) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _send(self, number: signal.Signals) -> None:
        for worker in self._workers:
            if worker.poll() is None:
                worker.send_signal(number)

    def _popen(self, env: Mapping[str, str], output: int | None) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            self._command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def _log(self, rank: int) -> Path:
        return self._logs / f"rank-{rank}.log"

    def _show_tail(self, rank: int) -> None:
        lines = self._log(rank).read_text(encoding="utf-8", errors="replace").splitlines()
        text = "\n".join([f"process {rank} failed; the end of {self._log(rank)}:", *lines[-TAIL:]])
        sys.stderr.write(presentable(text) + "\n")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
