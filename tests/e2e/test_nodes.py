"""Two nodes in network namespaces of this machine, joined by a wire: a run, a node that vanishes, a resume.

It takes root and `ip` (iproute2). Nodes are named by their addresses, so that `ip netns exec {host} {command}` starts
them.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

import pytest

from tests.e2e.runs import ROOT, command, comparable, environment, lines
from tests.toy.world import toy_recipe, write_recipe
from wavalign.engine.launch import Ended, Place
from wavalign.engine.nodes.head import launch_nodes
from wavalign.engine.nodes.remote import Nodes

START = "ip netns exec {host} {command}"


def ip(*words: str) -> None:
    """Call iproute2; raises CalledProcessError with what it says."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@final
@dataclass(frozen=True, slots=True)
class Wire:
    """Two nodes and what joins them."""

    hosts: tuple[str, str]

    def cut(self) -> None:
        """Nothing passes any more, and nobody is told."""
        ip("-n", self.hosts[1], "link", "set", "wire", "down")

    def inhabitants(self, node: int) -> list[int]:
        """Processes of a node."""
        said = subprocess.run(["ip", "netns", "pids", self.hosts[node]], check=True, capture_output=True, text=True)
        return [int(each) for each in said.stdout.split()]

    def vanish(self) -> None:
        """The second node is gone: its wire is cut, its processes end without a word to anybody."""
        self.cut()
        for process in self.inhabitants(1):
            os.kill(process, signal.SIGKILL)


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Two namespaces; skips where they cannot be made."""
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need `ip`: apt-get install iproute2")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    number = os.getpid() % 250 + 1
    hosts = (f"10.77.{number}.1", f"10.77.{number}.2")
    try:
        for host in hosts:
            ip("netns", "add", host)
        ip("link", "add", "wire", "netns", hosts[0], "type", "veth", "peer", "name", "wire", "netns", hosts[1])
        for host in hosts:
            ip("-n", host, "addr", "add", f"{host}/24", "dev", "wire")
            ip("-n", host, "link", "set", "lo", "up")
            ip("-n", host, "link", "set", "wire", "up")
    except subprocess.CalledProcessError as error:
        _remove(hosts)
        pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
    try:
        yield Wire(hosts)
    finally:
        for node in range(2):
            for process in Wire(hosts).inhabitants(node):
                os.kill(process, signal.SIGKILL)
        _remove(hosts)


def _remove(hosts: tuple[str, str]) -> None:
    for host in hosts:
        subprocess.run(["ip", "netns", "del", host], check=False, capture_output=True)


TALK = """
import os, socket, sys, time
rank, address, port = int(os.environ["RANK"]), os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
assert os.environ["GLOO_SOCKET_IFNAME"] == "wire"
if rank == 0:
    with socket.create_server((address, port)) as server:
        talk, _ = server.accept()
        print("heard", talk.recv(16).decode(), flush=True)
else:
    for _ in range(500):
        try:
            talk = socket.create_connection((address, port), timeout=5)
            break
        except ConnectionRefusedError:
            time.sleep(0.02)
    talk.send(b"from afar")
"""


def test_nodes_reach_one_another(wire: Wire, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Through the wire, and by nothing else; the sample of what follows, with ranks that bring no torch."""
    (tmp_path / "plan.json").write_text('{"fingerprint": "f"}')
    (tmp_path / "talk.py").write_text(TALK)
    told = {"folder": str(tmp_path), "fingerprint": "f", "threads": 1}
    nodes = Nodes(wire.hosts, template=START)
    talk = [str(tmp_path / "talk.py")]
    assert launch_nodes(talk, Place(tmp_path / "ranks"), nodes, each=1, told=told) == Ended(0)
    assert capfd.readouterr().out == "heard from afar\n"


class Run:
    """`wavalign run` on two nodes."""

    def __init__(self, folder: Path, wire: Wire | None, *arguments: str) -> None:
        self.folder, self._log = folder / "run", folder / "said.txt"
        hosts = folder / "hosts"
        where: tuple[str, ...] = ()
        if wire is not None:
            hosts.write_text("".join(f"{host} slots=1\n" for host in wire.hosts))
            where = ("--hostfile", str(hosts), "--remote", START)
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command("run", str(folder / "toy.yaml"), *where, *arguments),
                cwd=ROOT, env=environment(), stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def until_step(self, step: int) -> None:
        """Wait for a step's line."""
        end = time.monotonic() + 240
        while not any(line["step"] >= step for line in lines(self.folder / "metrics.jsonl")):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.01)

    def ends(self) -> int:
        """Wait for its end."""
        return self.process.wait(timeout=240)

    def newest(self) -> int:
        """Step of the newest checkpoint."""
        return max(int(path.name.removeprefix("step-")) for path in (self.folder / "checkpoints").glob("step-*"))


def recipe(folder: Path, steps: int, **runtime: object) -> None:
    folder.mkdir(exist_ok=True)
    content = toy_recipe(folder, checkpoint_every=3, **runtime)
    content["steps"] = steps
    write_recipe(folder, content)


@pytest.mark.slow
def test_a_node_vanishes_and_the_other_one_goes_on(wire: Wire, tmp_path: Path) -> None:
    """In the middle of a step. The node that is left writes the step before; resumed, it is as if nothing had been."""
    recipe(tmp_path, 60)
    run = Run(tmp_path, wire)
    run.until_step(7)
    wire.vanish()
    began = time.monotonic()
    assert run.ends() == 1, run.said
    assert time.monotonic() - began < 30
    assert f"node {wire.hosts[1]} was lost with process 1: " in run.said
    assert "interrupted" not in run.said
    newest, last = run.newest(), lines(run.folder / "metrics.jsonl")[-1]["step"]
    assert newest >= last - 1 and newest >= 7
    assert f"step-{newest} is complete, and the same command with --resume goes on from there" in run.said
    assert not any("wavalign" in Path(f"/proc/{each}/cmdline").read_text() for each in wire.inhabitants(0))
    again = Run(tmp_path, None, "--resume", "--set", "runtime.processes=2")
    assert again.ends() == 0, again.said
    recipe(tmp_path / "whole", 60, processes=2)
    whole = Run(tmp_path / "whole", None)
    assert whole.ends() == 0, whole.said
    assert comparable(again.folder / "metrics.jsonl") == comparable(whole.folder / "metrics.jsonl")
    weights = Path("model") / "model.safetensors"
    assert (again.folder / weights).read_bytes() == (whole.folder / weights).read_bytes()


@pytest.mark.slow
def test_a_wire_is_cut(wire: Wire, tmp_path: Path) -> None:
    """Nobody is gone, nothing passes: the run ends by the recipe's patience and says whom it waited for."""
    recipe(tmp_path, 200, timeout=6)
    run = Run(tmp_path, wire)
    run.until_step(4)
    wire.cut()
    assert run.ends() == 1, run.said
    assert "process 0 (" in run.said and " has waited in " in run.said
    assert "process 1 does not answer: it is stopped, gone, or in native code" in run.said
    assert run.newest() >= 4


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_writes_a_checkpoint(wire: Wire, tmp_path: Path, number: signal.Signals) -> None:
    recipe(tmp_path, 200)
    run = Run(tmp_path, wire)
    run.until_step(4)
    run.process.send_signal(number)
    began = time.monotonic()
    assert run.ends() == 128 + number, run.said
    assert time.monotonic() - began < 30
    assert run.newest() == lines(run.folder / "metrics.jsonl")[-1]["step"]
    assert f"newest checkpoint: {run.folder / 'checkpoints'}" in run.said
