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
from wavalign.engine.launch import launch


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
    assert launch([*worker, "--x"], processes=3, env={"OWN": "value"}, logs=tmp_path / "logs", threads=2) == 0
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
    assert launch(worker, processes=2, env={}, logs=tmp_path) == 3


def test_output_of_the_first_rank_passes_and_others_go_to_files(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = script(tmp_path, "print('out', rank); print('err', rank, file=sys.stderr)")
    assert launch(worker, processes=2, env={}, logs=tmp_path / "logs") == 0
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
    assert launch(worker, processes=3, env={}, logs=tmp_path / "logs") == 5
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
    assert launch(worker, processes=2, env={}, logs=tmp_path) == 3
    assert time.monotonic() - start < 10


def test_a_killed_rank_counts_as_128_plus_its_signal(tmp_path: Path) -> None:
    worker = script(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert launch(worker, processes=1, env={}, logs=tmp_path) == 137


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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
        open({str(tmp_path)!r} + f"/ready-{{rank}}", "w").close()
        while not count:
            time.sleep(0.01)
        time.sleep(0.3 + rank)
        open({str(tmp_path)!r} + f"/count-{{rank}}", "w").write(str(count))
        sys.exit(128 + {int(number)})
        """,
    )
    code = (
        "import os, sys; from pathlib import Path; from wavalign.engine.launch import launch;"
        f"sys.exit(launch({worker!r}, processes=2, env=dict(os.environ), logs=Path({str(tmp_path)!r})))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2], start_new_session=True)
    while not all((tmp_path / f"ready-{rank}").exists() for rank in range(2)):
        assert process.poll() is None
        time.sleep(0.01)
    # As a terminal does it: to the whole foreground group.
    os.killpg(process.pid, number)
    assert process.wait(timeout=20) == 128 + number
    assert [(tmp_path / f"count-{rank}").read_text() for rank in range(2)] == ["1", "1"]
