"""Runs of several processes whose workers or launcher are killed, hung up or stopped."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.runs import ROOT, command, comparable, environment, lines, wavalign
from tests.toy.world import toy_recipe, write_recipe

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes through /proc")


def recipe(folder: Path, processes: int = 2) -> str:
    folder.mkdir(exist_ok=True)
    content = toy_recipe(folder, checkpoint_every=3, processes=processes)
    content["steps"] = 600  # none comes to its end
    return write_recipe(folder, content)


class Run:
    """`wavalign run`, and its workers by rank."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder, self._log = folder / "run", folder / "said.txt"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command("run", *arguments), cwd=ROOT, env=environment(), stdout=log, stderr=log, start_new_session=True
            )

    @property
    def said(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def worker(self, rank: int) -> int:
        """The process of a rank."""
        mine = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        for child in Path(mine).read_text().split():
            if f"\0RANK={rank}\0".encode() in b"\0" + Path(f"/proc/{child}/environ").read_bytes():
                return int(child)
        raise AssertionError(self.said)

    def until_step(self, step: int) -> None:
        """Wait for a step's line."""
        end = time.monotonic() + 120
        while not any(line["step"] >= step for line in lines(self.folder / "metrics.jsonl")):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.02)

    def ends(self) -> int:
        """Wait for its end."""
        return self.process.wait(timeout=120)

    def newest(self) -> int:
        """Step of the newest checkpoint."""
        return max(int(path.name.removeprefix("step-")) for path in (self.folder / "checkpoints").glob("step-*"))


def steps(folder: Path) -> list[int]:
    return [line["step"] for line in lines(folder / "metrics.jsonl") if line["split"] == "train"]


def test_a_killed_worker_is_named(tmp_path: Path) -> None:
    """The first rank, which lost it, still writes the last complete step."""
    run = Run(tmp_path, recipe(tmp_path))
    _lose_a_worker(run)


def _lose_a_worker(run: Run) -> None:
    run.until_step(7)
    os.kill(run.worker(1), signal.SIGKILL)
    assert run.ends() == 137, run.said
    assert "process 1 was ended by signal 9 (SIGKILL; often: out of memory)" in run.said
    assert "GLHF" not in run.said
    assert "interrupted" not in run.said
    newest = run.newest()
    assert newest >= steps(run.folder)[-1] - 1
    assert f"step-{newest} is complete, and the same command with --resume goes on from there" in run.said


@pytest.mark.slow
def test_nothing_is_lost_with_a_worker(tmp_path: Path) -> None:
    """Resumed, it is as if nothing had happened."""
    path = recipe(tmp_path)
    run = Run(tmp_path, path)
    _lose_a_worker(run)
    newest = run.newest()
    again = Run(tmp_path, path, "--resume")
    again.until_step(newest + 3)
    again.process.send_signal(signal.SIGTERM)
    assert again.ends() == 143, again.said
    assert f"newest checkpoint: {again.folder / 'checkpoints' / f'step-{again.newest()}'}" in again.said
    assert "nothing to resume" not in again.said
    assert steps(run.folder) == [*range(1, again.newest() + 1)]
    whole = Run(tmp_path / "whole", recipe(tmp_path / "whole"))
    whole.until_step(again.newest() + 1)
    whole.process.send_signal(signal.SIGINT)
    assert whole.ends() == 130, whole.said
    count = len(comparable(run.folder / "metrics.jsonl"))
    assert comparable(run.folder / "metrics.jsonl") == comparable(whole.folder / "metrics.jsonl")[:count]


@pytest.mark.slow
def test_workers_end_with_their_launcher(tmp_path: Path) -> None:
    """Killed outright, it leaves workers that write a checkpoint, end, and let go of the folder."""
    path = recipe(tmp_path)
    run = Run(tmp_path, path)
    run.until_step(4)
    workers = [run.worker(rank) for rank in range(2)]
    run.process.kill()
    run.ends()
    end = time.monotonic() + 60
    while any(Path(f"/proc/{worker}").exists() and not _is_dead(worker) for worker in workers):
        assert time.monotonic() < end, run.said
        time.sleep(0.05)
    assert run.newest() == steps(run.folder)[-1]
    again = Run(tmp_path, path, "--resume")
    again.until_step(run.newest() + 1)
    again.process.send_signal(signal.SIGHUP)
    assert again.ends() == 129, again.said
    assert again.newest() == steps(again.folder)[-1]


def test_quiet_is_quiet_of_several_processes_too(tmp_path: Path) -> None:
    content = toy_recipe(tmp_path, processes=2)
    content |= {"steps": 1, "evaluation": {"metrics": {}}}
    del content["data"]["evaluation"]
    done = wavalign("run", write_recipe(tmp_path, content), "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path / 'run'}\n", "")


def test_a_hang_up_writes_a_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path, recipe(tmp_path, processes=1))
    run.until_step(4)
    run.process.send_signal(signal.SIGHUP)
    assert run.ends() == 129, run.said
    assert run.newest() == steps(run.folder)[-1]


def _is_dead(process: int) -> bool:
    """Whether it only waits to be looked at."""
    try:
        return ") Z " in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
