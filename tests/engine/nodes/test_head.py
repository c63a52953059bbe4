"""Several nodes as processes of this machine: their ranks' places, who is to blame, and what ends with what."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from wavalign.engine.launch import Ended, Place
from wavalign.engine.nodes import head
from wavalign.engine.nodes.head import launch_nodes
from wavalign.engine.nodes.remote import Nodes
from wavalign.errors import LOST, WorkersError

HERE = "env NODE={host} {command}"
"""Starts every node on this machine."""
ROOT = Path(__file__).parents[3]


def script(folder: Path, text: str) -> list[str]:
    """A worker as a file."""
    path = folder / "worker.py"
    path.write_text("import os, sys, time, signal, json\nrank = int(os.environ['RANK'])\n" + textwrap.dedent(text))
    return [str(path)]


def told(folder: Path) -> dict[str, object]:
    """What agents are told, of a run's folder that is there."""
    (folder / "plan.json").write_text('{"fingerprint": "f"}')
    return {"folder": str(folder), "fingerprint": "f", "threads": 1}


def launched(folder: Path, worker: Sequence[str], *, each: int = 1, nodes: Nodes | None = None) -> Ended:
    there = nodes if nodes is not None else Nodes(("one", "two"), template=HERE, address="127.0.0.1")
    return launch_nodes(worker, Place(folder / "ranks"), there, each=each, told=told(folder))


def test_every_rank_knows_its_place(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    worker = script(
        tmp_path,
        f"""
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "NODE", "GLOO_SOCKET_IFNAME")
        values = {{name: os.environ[name] for name in names}} | {{"port": int(os.environ["MASTER_PORT"])}}
        open({str(tmp_path)!r} + f"/{{rank}}.json", "w").write(json.dumps(values))
        print("rank", rank)
        """,
    )
    assert launched(tmp_path, worker, each=2) == Ended(0)
    values = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(4)]
    for rank, value in enumerate(values):
        assert (value["RANK"], value["LOCAL_RANK"], value["NODE"]) == (
            str(rank),
            str(rank % 2),
            ("one", "two")[rank // 2],
        )
        assert (value["WORLD_SIZE"], value["LOCAL_WORLD_SIZE"], value["MASTER_ADDR"]) == ("4", "2", "127.0.0.1")
        assert value["GLOO_SOCKET_IFNAME"] == "lo"
    assert len({value["port"] for value in values}) == 1
    assert capfd.readouterr().out == "rank 0\n", "the first one speaks through its launcher"
    assert (tmp_path / "ranks" / "rank-3.log").read_text() == "rank 3\n"


def test_a_rank_that_fails_is_named_with_its_node(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    worker = script(
        tmp_path,
        f"""
        if rank == 3:
            print("the reason")
            sys.exit(5)
        time.sleep(1 if rank == 1 else 60)
        sys.exit({LOST})
        """,
    )
    assert launched(tmp_path, worker, each=2) == Ended(5, rank=3, node="two")
    error = capfd.readouterr().err
    assert "process 3 failed" in error
    assert "the reason" in error


def test_a_rank_that_is_killed(tmp_path: Path) -> None:
    worker = script(tmp_path, "os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else time.sleep(60)")
    assert launched(tmp_path, worker) == Ended(137, rank=1, killed_by=9, node="two")


def test_a_node_that_vanishes(tmp_path: Path) -> None:
    """Its agent and ranks are gone at once; the other node's rank, which waits for them, is told so."""
    worker = script(
        tmp_path,
        f"""
        from wavalign.engine.launch import watch_launcher
        if rank == 1:
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        watch_launcher(lambda: os._exit({LOST}))
        time.sleep(60)
        """,
    )
    began = time.monotonic()
    ended = launched(tmp_path, worker)
    assert ended == Ended(1, rank=1, node="two")
    assert "ended with exit code -9" in ended.cause
    assert time.monotonic() - began < 15


def test_a_node_of_which_nothing_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "SILENCE", 3.0)
    monkeypatch.setattr(head, "LETTING_GO", 1.0)
    worker = script(tmp_path, "os.kill(os.getppid(), signal.SIGSTOP) if rank == 1 else None\ntime.sleep(60)")
    ended = launched(tmp_path, worker)
    assert ended == Ended(1, rank=1, node="two")
    assert ended.cause == "no word came from it for 3 s"


def test_a_node_that_does_not_start(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    template = "sh -c 'test $0 = one || { echo no route >&2; exit 7; }; exec \"$@\"' {host} {command}"
    with pytest.raises(WorkersError) as caught:
        launched(tmp_path, script(tmp_path, ""), nodes=Nodes(("one", "two"), template=template, address="127.0.0.1"))
    assert caught.value.message.startswith("node two did not start: ")
    assert "ended with exit code 7" in caught.value.message
    assert "no route" in capfd.readouterr().err


def test_a_node_that_sees_another_folder(tmp_path: Path) -> None:
    worker = script(tmp_path, "")
    with pytest.raises(WorkersError, match="must lie on a file system that all nodes share"):
        launch_nodes(
            worker, Place(tmp_path), Nodes(("one",), template=HERE), each=1,
            told={"folder": str(tmp_path / "none"), "fingerprint": "f", "threads": 1},
        )  # fmt: skip
    with pytest.raises(WorkersError, match="holds plan f here, and g at the launcher"):
        launch_nodes(
            worker, Place(tmp_path), Nodes(("one",), template=HERE), each=1,
            told={**told(tmp_path), "fingerprint": "g"},
        )  # fmt: skip


NOTES = """
from wavalign.engine.launch import watch_launcher
count = 0
def note(number, frame):
    global count
    count += 1
    open(f"{folder}/told-{rank}", "w").write(str(number))
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, note)
watch_launcher()
open(f"{folder}/ready-{rank}", "w").close()
while not count:
    time.sleep(0.01)
time.sleep(0.3)
open(f"{folder}/count-{rank}", "w").write(str(count))
sys.exit(3)
"""


def started(folder: Path) -> "subprocess.Popen[bytes]":
    """A launcher of two nodes, in a process of its own."""
    worker = script(folder, f"folder = {str(folder)!r}\n{NOTES}")
    code = (
        "import sys; from pathlib import Path; from tests.engine.nodes.test_head import launched;"
        f"sys.exit(launched(Path({str(folder)!r}), {worker!r}).code)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True)
    appears(*(folder / f"ready-{rank}" for rank in range(2)))
    return process


def appears(*paths: Path) -> None:
    """Wait for files."""
    end = time.monotonic() + 60
    while not all(path.exists() for path in paths):
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_reach_every_rank_once(tmp_path: Path, number: signal.Signals) -> None:
    process = started(tmp_path)
    os.killpg(process.pid, number)  # as a terminal does it: to the whole foreground group
    assert process.wait(timeout=30) == 3
    assert [(tmp_path / f"count-{rank}").read_text() for rank in range(2)] == ["1", "1"]
    assert (tmp_path / "told-1").read_text() == str(int(number))


def test_ranks_end_with_their_launcher(tmp_path: Path) -> None:
    """Killed outright, it leaves ranks on every node that are told to stop."""
    process = started(tmp_path)
    process.kill()
    process.wait()
    appears(*(tmp_path / f"count-{rank}" for rank in range(2)))
    assert [(tmp_path / f"told-{rank}").read_text() for rank in range(2)] == [str(int(signal.SIGTERM))] * 2
