"""The launcher of several nodes: one agent on each, their ranks as workers of one group."""

import json
import os
import queue
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, final

from wavalign import __version__
from wavalign.engine.launch import Ended, Group, Place
from wavalign.engine.nodes.agent import BEAT
from wavalign.engine.nodes.remote import Nodes
from wavalign.errors import WorkersError
from wavalign.terminal import presentable

READY = 300.0
"""Seconds that a node has to come: Python starts slowly off a file system that many share."""
SILENCE = 20.0
"""Seconds without a word after which a node is lost."""
LETTING_GO = 10.0
"""Seconds that a node has to end its ranks once they are killed."""
_POLL = 0.05


@final
class Node:
    """A machine, by the process that started its agent."""

    def __init__(self, host: str, command: Sequence[str], opening: Mapping[str, Any]) -> None:
        self.host, self.command = host, command
        self.ready: dict[str, Any] | None = None
        self.refused = ""
        self.gone = ""
        """How it was lost, or ended."""
        self.workers: list[RemoteWorker] = []
        # In a session of its own: Ctrl-C is for the launcher alone.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, bufsize=0
        )
        self._heard: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._listened = self._spoke = time.monotonic()
        self._listener = threading.Thread(target=self._listen, name=host, daemon=True)
        self._listener.start()
        self.tell(dict(opening))

    def tell(self, what: dict[str, Any]) -> None:
        """Send a line; a node that is gone hears nothing."""
        stream = self._process.stdin
        assert stream is not None
        with suppress(OSError, ValueError):  # the pipe is broken, or closed
            stream.write((json.dumps(what) + "\n").encode())
        self._spoke = time.monotonic()

    def pump(self) -> None:
        """Take in what it said, and see whether it is alive."""
        while not self._heard.empty():
            told = self._heard.get()
            self._listened = time.monotonic()
            if told is None:
                self._lose(f"`{shlex.join(self.command)}` ended with exit code {self._process.wait()}")
                return
            self._take(told)
        now = time.monotonic()
        if now - self._spoke > BEAT:
            self.tell({"beat": 0})
        if self.ready is not None and now - self._listened > SILENCE:
            self._lose(f"no word came from it for {SILENCE:.0f} s")

    def close(self) -> None:
        """Let its agent end, and what started it."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(LETTING_GO)
        except subprocess.TimeoutExpired:
            self.drop("it did not end")
        self._listener.join(1.0)

    def drop(self, why: str) -> None:
        """Wait for it no longer."""
        self._process.kill()
        self._process.wait()
        self._lose(why)

    def _take(self, told: Mapping[str, Any]) -> None:
        if "ready" in told:
            self.ready = dict(told["ready"])
        elif "refused" in told:
            self.refused = str(told["refused"])
        elif "ended" in told:
            rank, code, cause = told["ended"]
            worker = next(each for each in self.workers if each.rank == rank)
            worker.code, worker.cause = int(code), str(cause)
        elif "said" in told:
            sys.stdout.write(presentable(str(told["said"])))
            sys.stdout.flush()

    def _lose(self, why: str) -> None:
        if self.gone:
            return
        self.gone = why
        for worker in self.workers:
            if worker.code is None:
                worker.code, worker.cause = 1, why

    def _listen(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        with stream:
            for line in iter(stream.readline, b""):
                try:
                    told = json.loads(line)
                except ValueError:
                    told = None
                if isinstance(told, dict):
                    self._heard.put(told)
                else:  # what a login of the node prints before anything else
                    said = line.decode(errors="replace").rstrip()
                    sys.stderr.write(presentable(f"{self.host}: {said}") + "\n")
        self._heard.put(None)


@final
class RemoteWorker:
    """A rank of another machine."""

    def __init__(self, node: Node, rank: int) -> None:
        self.node, self.cause = node.host, ""
        self.code: int | None = None
        self.rank, self._node = rank, node

    def poll(self) -> int | None:
        return self.code

    def send_signal(self, number: int) -> None:
        if self.code is None:
            self._node.tell({"signal": [self.rank, int(number)]})

    def tell_lost(self) -> None:
        self._node.tell({"lost": self.rank})

    def kill(self) -> None:
        self.send_signal(9)
        end = time.monotonic() + LETTING_GO
        while self.code is None:
            self._node.pump()
            if time.monotonic() > end:
                self._node.drop("it did not end its processes")
            time.sleep(_POLL)


def launch_nodes(worker: Sequence[str], place: Place, nodes: Nodes, *, each: int, told: Mapping[str, Any]) -> Ended:
    """Run `python *worker` as `each` ranks on every node to their end; the rest as `launch` does on one machine.

    `told` is what agents are told beside: folder, fingerprint, threads. Raises WorkersError where a node does not come.
    """
    address, size = nodes.meeting_point(), each * len(nodes.hosts)
    opening = {
        "version": __version__,
        "workplace": os.getcwd(),
        "worker": list(worker),
        "logs": str(Path(place.logs).absolute()),
        "env": nodes.variables(os.environ),
        "count": each,
        "size": size,
        **told,
    }
    started: list[Node] = []

    def pump() -> None:
        for node in started:
            node.pump()

    group = Group(place, between=pump)
    with group.forwarded_signals():
        try:
            for index, host in enumerate(nodes.hosts):
                started.append(Node(host, nodes.command(host), {**opening, "first": index * each}))
            _until_ready(started, group)
            if group.asked:
                return Ended(128 + group.asked, asked=group.asked)
            port = nodes.port or int((started[0].ready or {})["port"])
            for index, node in enumerate(started):
                node.workers = [RemoteWorker(node, index * each + local) for local in range(each)]
                for remote in node.workers:
                    group.add(remote)
                node.tell({"start": [address, port]})
            return group.wait()
        finally:
            group.kill()
            for node in started:
                node.close()


def _until_ready(started: Sequence[Node], group: Group) -> None:
    """Wait for every node's word; raises WorkersError for the first that does not come."""
    end = time.monotonic() + READY
    while not group.asked and any(node.ready is None for node in started):
        for node in started:
            node.pump()
            if node.refused:
                raise WorkersError(2, f"node {node.host}: {node.refused}")
            late = time.monotonic() > end and node.ready is None
            if node.gone or late:
                why = node.gone or f"no word came from it in {READY:.0f} s"
                hint = f"its own words stand above; does `{shlex.join([*node.command[:-1], 'true'])}` work by itself?"
                raise WorkersError(1, f"node {node.host} did not start: {why}", hint=hint)
        time.sleep(_POLL)
