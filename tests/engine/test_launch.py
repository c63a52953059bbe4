"""Launching workers: their places, their output, their failures, signals."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from wavalign.engine import launch as module
from wavalign.engine.launch import Ended, Place, launch
from wavalign.errors import LOST


def script(folder: Path, text: str) -> list[str]:
    """A worker as a file."""
    path = folder / "worker.py"
    path.write_text("import os, sys, time, signal, json\nrank = int(os.environ['RANK'])\n" + textwrap.dedent(text))
    return [str(path)]


def test_every_worker_knows_its_place(tmp_path: Path) -> None:
    worker = script(
        tmp_path,
        f"""
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS", "OWN")
        values = {{name: os.environ[name] for name in names}} | {{"port": int(os.environ["MASTER_PORT"])}}
        open({str(tmp_path)!r} + f"/{{rank}}.json", "w").write(json.dumps(values | {{"argv": sys.argv[1:]}}))
        """,
    )
    assert launch([*worker, "--x"], Place(tmp_path / "logs"), processes=3, env={"OWN": "value"}, threads=2).code == 0
    values = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    for rank, value in enumerate(values):
        assert value["RANK"] == value["LOCAL_RANK"] == str(rank)
        assert (value["WORLD_SIZE"], value["OMP_NUM_THREADS"], value["OWN"]) == ("3", "2", "value")
        assert value["argv"] == ["--x"]
    assert len({value["port"] for value in values}) == 1
    assert 1024 < values[0]["port"] < 65536


def test_cores_are_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)))
    worker = script(tmp_path, "sys.exit(int(os.environ['OMP_NUM_THREADS']) if rank == 0 else 0)")
    assert launch(worker, Place(tmp_path), processes=2, env={}).code == 3


def test_output_of_the_first_rank_passes_and_others_go_to_files(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = script(tmp_path, "print('out', rank); print('err', rank, file=sys.stderr)")
    assert launch(worker, Place(tmp_path / "logs"), processes=2, env={}).code == 0
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("out 0\n", "err 0\n")
    assert sorted((tmp_path / "logs" / "rank-1.log").read_text().splitlines()) == ["err 1", "out 1"]


def test_a_failing_rank_stops_the_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    worker = script(
        tmp_path,
        """
        if rank == 1:
            for line in range(100):
                print("line", line)
            print("the reason", file=sys.stderr)
            sys.exit(5)
        time.sleep(60)
        """,
    )
    start = time.monotonic()
    assert launch(worker, Place(tmp_path / "logs"), processes=3, env={}).code == 5
    assert time.monotonic() - start < module.GRACE
    error = capfd.readouterr().err
    assert "process 1 failed" in error
    assert "the reason" in error
    assert "line 99" in error
    assert "line 9\n" not in error


def test_a_rank_that_will_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.3)
    ready = tmp_path / "ready"
    worker = script(
        tmp_path,
        f"""
        if rank == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            open({str(ready)!r}, "w").close()
            time.sleep(60)
        while not os.path.exists({str(ready)!r}):
            time.sleep(0.01)
        sys.exit(3)
        """,
    )
    start = time.monotonic()
    assert launch(worker, Place(tmp_path), processes=2, env={}).code == 3
    assert time.monotonic() - start < 10


def test_a_killed_rank_is_to_blame(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Also where another one notices first, and where the others are stopped: the exit code is 128 plus its signal."""
    worker = script(tmp_path, "os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else time.sleep(60)")
    ended = launch(worker, Place(tmp_path), processes=3, env={})
    assert (ended.code, ended.rank, ended.killed_by, ended.asked) == (137, 1, 9, 0)
    assert capfd.readouterr().err == "", "an empty log is not shown"


def test_a_rank_that_lost_another_is_not_to_blame(tmp_path: Path) -> None:
    worker = script(tmp_path, f"sys.exit({LOST}) if rank != 2 else (time.sleep(1), sys.exit(4))")
    assert launch(worker, Place(tmp_path), processes=3, env={}) == Ended(4, rank=2)
    worker = script(tmp_path, f"sys.exit({LOST})")
    assert launch(worker, Place(tmp_path), processes=2, env={}).code == 1


def test_workers_whose_launcher_is_killed_are_told(tmp_path: Path) -> None:
    worker = script(
        tmp_path,
        f"""
        from wavalign.engine.launch import watch_launcher
        def note(number, frame):
            open({str(tmp_path)!r} + f"/told-{{rank}}", "w").close()
            sys.exit(0)
        signal.signal(signal.SIGTERM, note)
        watch_launcher()
        open({str(tmp_path)!r} + f"/ready-{{rank}}", "w").close()
        time.sleep(60)
        """,
    )
    code = (
        "import os, sys; from pathlib import Path; from wavalign.engine.launch import Place, launch;"
        f"launch({worker!r}, Place(Path({str(tmp_path)!r})), processes=2, env=dict(os.environ))"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=root, env=environment)
    appears(*(tmp_path / f"ready-{rank}" for rank in range(2)))
    process.kill()
    process.wait()
    appears(*(tmp_path / f"told-{rank}" for rank in range(2)))


def appears(*paths: Path) -> None:
    """Wait for files."""
    end = time.monotonic() + 60
    while not all(path.exists() for path in paths):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_checkpoint_that_is_being_written_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.2)
    worker = script(
        tmp_path,
        f"""
        ready = {str(tmp_path)!r} + "/ready"
        if rank == 1:
            while not os.path.exists(ready):
                time.sleep(0.01)
            sys.exit(3)
        def write(number, frame):
            time.sleep(1)
            open({str(tmp_path)!r} + "/written", "w").close()
            sys.exit(0)
        signal.signal(signal.SIGTERM, write)
        open(ready, "w").close()
        time.sleep(60)
        """,
    )
    place = Place(tmp_path, is_writing=lambda: not (tmp_path / "written").exists())
    assert launch(worker, place, processes=2, env={}).code == 3
    assert (tmp_path / "written").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_reach_every_rank_once(tmp_path: Path, number: signal.Signals) -> None:
    worker = script(
        tmp_path,
        f"""
        count = 0
        def note(number, frame):
            global count
            count += 1
        signal.signal(signal.SIGINT, note)
        signal.signal(signal.SIGTERM, note)
        signal.signal(signal.SIGHUP, note)
        open({str(tmp_path)!r} + f"/ready-{{rank}}", "w").close()
        while not count:
            time.sleep(0.01)
        time.sleep(0.3 + rank)
        open({str(tmp_path)!r} + f"/count-{{rank}}", "w").write(str(count))
        sys.exit(128 + {int(number)})
        """,
    )
    code = (
        "import os, sys; from pathlib import Path; from wavalign.engine.launch import Place, launch;"
        f"sys.exit(launch({worker!r}, Place(Path({str(tmp_path)!r})), processes=2, env=dict(os.environ)).code)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2], start_new_session=True)
    while not all((tmp_path / f"ready-{rank}").exists() for rank in range(2)):
        assert process.poll() is None
        time.sleep(0.01)
    # As a terminal does it: to the whole foreground group.
    os.killpg(process.pid, number)
    assert process.wait(timeout=20) == 128 + number
    assert [(tmp_path / f"count-{rank}").read_text() for rank in range(2)] == ["1", "1"]
