"""One node's part of a launch: `python -m wavalign.engine.nodes.agent`, started by `head.py` through ssh, srun or so.

It is told what to do on its standard input and tells what happens on its standard output, a JSON object a line. Its
input is the line to the launcher: when that ends, or nothing comes for long, the launcher or the network is gone, and
the ranks of this node write what they can and stop. It imports no torch.
"""

import fcntl
import json
import os
import queue
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, final

from wavalign import __version__
from wavalign.engine.causes import Machine
from wavalign.engine.launch import LocalWorker, Place, free_port, threads_each
from wavalign.leaving import leave

BEAT = 2.0
"""Seconds between two signs of life, in both directions."""
UNHEARD = 120.0
"""Seconds without one after which a node takes its launcher for gone; Ctrl-Z may stop a launcher for as long."""
_POLL = 0.05
_ADDRESS_OF = 0x8915
"""SIOCGIFADDR."""


@final
class Agent:
    """The ranks of this node."""

    def __init__(self, opening: Mapping[str, Any], heard: "queue.Queue[dict[str, Any] | None]") -> None:
        self._opening, self._heard = opening, heard
        self._machine = Machine()
        self._workers: dict[int, LocalWorker] = {}
        self._ended: set[int] = set()
        self._spoke = self._listened = time.monotonic()
        self._lock = threading.Lock()
        self._orphaned = False
        self._output: threading.Thread | None = None

    def refusal(self) -> str:
        """Why this node cannot take part; empty where it can."""
        theirs, folder = self._opening["version"], Path(self._opening["folder"])
        if theirs != __version__:
            return f"WavAlign is {__version__} here and {theirs} at the launcher: install the same"
        try:
            os.chdir(self._opening["workplace"])
        except OSError as error:
            return f"{error.filename}: {error.strerror}: the launcher's folder must be there on every node"
        try:
            there = json.loads((folder / "plan.json").read_text(encoding="utf-8")).get("fingerprint")
        except (OSError, ValueError):
            return f"the run's folder {folder} is not seen here: it must lie on a file system that all nodes share"
        if there != self._opening["fingerprint"]:
            return f"{folder} holds plan {there} here, and {self._opening['fingerprint']} at the launcher"
        return ""

    def say(self, what: str, value: Any) -> None:
        """Tell the launcher; nobody may listen any more."""
        data = (json.dumps({what: value}) + "\n").encode()
        with self._lock, suppress(OSError):
            while data:
                data = data[os.write(1, data) :]
        self._spoke = time.monotonic()

    def start(self, address: str, port: int) -> None:
        """Start the ranks, which meet at `address`."""
        first, count = self._opening["first"], self._opening["count"]
        shared = {**os.environ, **self._opening["env"], "MASTER_ADDR": address, "MASTER_PORT": str(port)}
        shared |= {
            "WORLD_SIZE": str(self._opening["size"]),
            "LOCAL_WORLD_SIZE": str(count),
            "OMP_NUM_THREADS": str(threads_each(self._opening["threads"], count)),
        }
        if "GLOO_SOCKET_IFNAME" not in shared and (name := interface_to(address, port)):
            # By itself it takes what the machine's own name stands for, which often is 127.0.1.1.
            shared["GLOO_SOCKET_IFNAME"] = name
        place = Place(Path(self._opening["logs"]))
        for local, rank in enumerate(range(first, first + count)):
            ranked = {**shared, "RANK": str(rank), "LOCAL_RANK": str(local)}
            output = self._speaking() if rank == 0 else None
            worker = LocalWorker(self._opening["worker"], ranked, place, machine=self._machine, output=output)
            if output is not None:
                os.close(output)
            self._workers[rank] = worker

    def run(self) -> int:
        """Until all ranks have ended, or were never started and nobody wants them any more."""
        while True:
            if not self._listen():
                return 0
            for rank, worker in self._workers.items():
                code = worker.poll()
                if code is not None and rank == 0 and self._output is not None:
                    self._output.join(BEAT)  # its last words come before its end
                if code is not None and rank not in self._ended:
                    self._ended.add(rank)
                    self.say("ended", [rank, code, worker.cause])
            if self._workers and len(self._ended) == len(self._workers):
                return 0
            if time.monotonic() - self._spoke > BEAT:
                self.say("beat", len(self._ended))

    def forward(self, number: int) -> None:
        """Send a signal to every rank of this node."""
        for worker in self._workers.values():
            worker.send_signal(number)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _listen(self) -> bool:
        """Do what the launcher says; False where it is gone and no rank was started."""
        try:
            told = self._heard.get(timeout=_POLL)
        except queue.Empty:
            if time.monotonic() - self._listened < UNHEARD:
                return True
            told = None
        if told is None:
            if not self._orphaned:
                self._orphaned = True
                for worker in self._workers.values():
                    worker.orphan()
            self._listened = time.monotonic()
            return bool(self._workers)
        self._listened = time.monotonic()
        if "start" in told:
            self.start(*told["start"])
        elif "signal" in told:
            rank, number = told["signal"]
            self._workers[rank].send_signal(number)
        elif "lost" in told and not self._orphaned:
            self._workers[told["lost"]].tell_lost()
        return True

    def _speaking(self) -> int:
        """A pipe whose end that is given is the first rank's standard output: its words go to the launcher."""
        reading, writing = os.pipe()

        def pass_on() -> None:
            with os.fdopen(reading, "r", encoding="utf-8", errors="replace", newline="") as output:
                for line in output:
                    self.say("said", line)

        self._output = threading.Thread(target=pass_on, name="output", daemon=True)
        self._output.start()
        return writing


def interface_to(address: str, port: int) -> str:
    """The network interface by which this machine reaches `address`; empty where it cannot be told (IPv6)."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, port))  # sends nothing
            mine = socket.inet_aton(probe.getsockname()[0])
            for _, name in socket.if_nameindex():
                with suppress(OSError):  # it has no such address
                    asked = struct.pack("256s", name[:15].encode())
                    if fcntl.ioctl(probe.fileno(), _ADDRESS_OF, asked)[20:24] == mine:
                        return name
    except OSError:
        return ""
    return ""


def _listening(stream: IO[bytes]) -> "queue.Queue[dict[str, Any] | None]":
    heard: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def listen() -> None:
        for line in stream:
            heard.put(json.loads(line))
        heard.put(None)

    threading.Thread(target=listen, name="launcher", daemon=True).start()
    return heard


def main() -> int:
    """Take part in a launch."""
    # A terminal's or a batch system's, which the launcher handles. Not SIG_IGN: the ranks would inherit that.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, lambda _number, _frame: None)
    first = sys.stdin.buffer.readline()
    if not first:
        return 0
    agent = Agent(json.loads(first), _listening(sys.stdin.buffer))
    signal.signal(signal.SIGTERM, lambda number, _: agent.forward(number))
    if refusal := agent.refusal():
        agent.say("refused", refusal)
        return 2
    agent.say("ready", {"host": socket.gethostname(), "port": free_port("")})  # that of the first node is taken
    return agent.run()


if __name__ == "__main__":
    leave(main())  # threads still listen to a launcher that waits for this end
