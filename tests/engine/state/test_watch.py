"""Waits that last too long: who waited, since when, who is missing, and where that one stands."""

import json
import sys
import textwrap
import time
from pathlib import Path

import pytest

from wavalign.engine import launch as launching
from wavalign.engine.launch import Ended, Place, launch
from wavalign.engine.state import watch
from wavalign.engine.state.watch import Watch
from wavalign.errors import LOST

MEETING = """
import os, sys, time, signal
from datetime import timedelta
from wavalign.engine.launch import watch_launcher
from wavalign.engine.state.distributed import World
from wavalign.engine.state.watch import free_waiting
from wavalign.errors import RankLostError
rank = int(os.environ["RANK"])
watch_launcher(free_waiting)
world = World.from_environment("cpu", patience=timedelta(seconds=3))
world.barrier()
def stuck_in_here():
    if {stopped}:
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)
try:
    if rank == {missing}:
        stuck_in_here()
    world.gather([1])
except RankLostError as error:
    open({folder!r} + f"/hint-{{rank}}", "w").write(error.message + "\\n" + error.hint)
    sys.exit(error.exit_code)
"""


def met(folder: Path, *, missing: int, stopped: bool = False) -> tuple[Ended, list[str]]:
    """How three ranks end of which one does not come; and what the others say."""
    worker = folder / "worker.py"
    worker.write_text(textwrap.dedent(MEETING.format(folder=str(folder), missing=missing, stopped=stopped)))
    environment = {"PYTHONPATH": str(Path(__file__).parents[3])}
    ended = launch([str(worker)], Place(folder / "ranks"), processes=3, env=environment, threads=1)
    return ended, [path.read_text() for path in sorted(folder.glob("hint-*"))]


def test_a_rank_that_does_not_come(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It ends with its stack and is to blame; the others say whom they waited for."""
    ended, hints = met(tmp_path, missing=1)
    assert ended == Ended(watch.HUNG, rank=1)
    assert len(hints) == 2
    for hint in hints:
        assert hint.startswith("another process of this run was lost during a gather")
        assert "has waited in a gather (the " in hint
        assert "process 1 (" in hint and "has not come; its log has its stack" in hint
    log = (tmp_path / "ranks" / "rank-1.log").read_text()
    assert "process 1 stands here:" in log and "in stuck_in_here" in log
    shown = capfd.readouterr().err
    assert "in stuck_in_here" in shown, "the launcher shows the end of its log"
    assert "process 0 waits here:" in shown and "world.gather([1])" in shown


@pytest.mark.slow
def test_a_rank_that_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot say where; the others do not wait for it for ever."""
    monkeypatch.setattr(launching, "GRACE", 1.0)
    ended, hints = met(tmp_path, missing=2, stopped=True)
    assert ended.code == 1
    assert len(hints) == 2
    assert all("process 2 does not answer: it is stopped, gone, or in native code" in hint for hint in hints)


@pytest.mark.slow
def test_the_first_rank_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With it the place is gone where ranks would say where they are."""
    monkeypatch.setattr(launching, "GRACE", 1.0)
    ended, hints = met(tmp_path, missing=0, stopped=True)
    assert ended.code == 1
    assert hints and all("the process that holds the meeting point does not answer" in hint for hint in hints)


class Shelf:
    """A store within this process."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}

    def set(self, key: str, value: str, /) -> None:
        self.held[key] = value

    def get(self, key: str, /) -> bytes:
        return self.held[key].encode()

    def check(self, keys: list[str], /) -> bool:
        return all(key in self.held for key in keys)

    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes:
        assert expected == ""
        return self.held.setdefault(key, desired).encode()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLL", "ANSWER", "LET"):
        monkeypatch.setattr(watch, name, 0.05)


@pytest.mark.usefixtures("quick")
def test_all_came(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Then nobody is to blame but what connects them; a rank in a later meeting has come to this one, too."""
    monkeypatch.setattr(watch, "_connections", list)
    shelf = Shelf()
    for rank, number, doing in ((1, 2, "a sum"), (2, 3, "")):
        shelf.set(f"where/{rank}", json.dumps({"number": number, "doing": doing, "pid": 1, "host": "h"}))
    mine = Watch(shelf, rank=0, size=3, patience=0.1)
    mine.start()
    with mine.meeting("a gather"):
        pass
    with mine.meeting("a sum"), mine.meeting("a sum within"):
        pass
    mine.close()
    again = Watch(shelf, rank=0, size=3, patience=0.1)
    again.start()
    with again.meeting("first"):
        pass
    with again.meeting("a sum"):
        end = time.monotonic() + 10
        while not again.verdict:
            assert time.monotonic() < end
            time.sleep(0.01)
    again.close()
    assert "in a sum (the 2th)" in again.verdict
    assert again.verdict.endswith("all processes came: what connects them is at fault")
    assert "process 0 waits here:" in capsys.readouterr().err
    assert mine.verdict == ""


@pytest.mark.usefixtures("quick")
def test_patience(capsys: pytest.CaptureFixture[str]) -> None:
    """Meetings that are short, however many, and long work between them are nobody's fault."""
    mine = Watch(Shelf(), rank=0, size=2, patience=0.5)
    mine.start()
    for _ in range(20):
        with mine.meeting("a sum"):
            time.sleep(0.01)
    time.sleep(0.8)
    mine.close()
    assert mine.verdict == ""
    assert capsys.readouterr().err == ""
    assert "torch" in sys.modules and LOST != watch.HUNG
