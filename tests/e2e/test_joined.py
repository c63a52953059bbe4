"""Runs whose processes somebody else starts: torchrun, srun, DeepSpeed; and a SLURM job that meets its time limit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.distributed import free_port
from tests.e2e.runs import ROOT, command, comparable, environment, lines, wavalign
from tests.toy.world import toy_recipe, write_recipe

pytestmark = pytest.mark.slow
SRUN = """#!/bin/bash
while [[ "$1" == -* ]]; do shift; done
exec "$@"
"""
"""Starts here what SLURM would start on a node."""


def recipe(folder: Path, **runtime: object) -> str:
    folder.mkdir(exist_ok=True)
    return write_recipe(folder, toy_recipe(folder, **runtime))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes that this project starts itself."""
    folder = tmp_path_factory.mktemp("whole")
    done = wavalign("run", recipe(folder, processes=2))
    assert done.returncode == 0, done.stderr
    return folder / "run"


def is_the_same(run: Path, whole: Path) -> None:
    assert comparable(run / "metrics.jsonl") == comparable(whole / "metrics.jsonl")
    weights = Path("model") / "model.safetensors"
    assert (run / weights).read_bytes() == (whole / weights).read_bytes()


def test_torchrun(whole: Path, tmp_path: Path) -> None:
    """One folder for all, chosen by the first; a second time it is refused by one message of one process."""
    path = recipe(tmp_path, processes="auto")
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]

    def run() -> "subprocess.CompletedProcess[str]":
        asked = [*words, "-m", "wavalign_cli", "run", path]
        return subprocess.run(
            asked, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False
        )

    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished") == 1
    is_the_same(tmp_path / "run", whole)
    again = run()
    assert again.returncode == 1
    assert again.stderr.count("already holds a run") >= 1


def test_srun_starts_every_process(whole: Path, tmp_path: Path) -> None:
    path, port = recipe(tmp_path, processes=2), str(free_port())
    job = {
        "SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": "2", "MASTER_PORT": port,
    }  # fmt: skip
    started = [
        subprocess.Popen(
            command("run", path), cwd=ROOT, stdout=subprocess.DEVNULL,
            env=environment(**job, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)),
        )
        for rank in range(2)
    ]  # fmt: skip
    assert [process.wait(240) for process in started] == [0, 0]
    is_the_same(tmp_path / "run", whole)


def test_a_job_meets_its_time_limit_and_goes_on(whole: Path, tmp_path: Path) -> None:
    """The printed script, on two nodes: told of the limit it leaves a checkpoint and submits itself; then it ends."""
    path = recipe(tmp_path, processes=1, nodes=2)
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "scontrol").write_text(f"#!/bin/bash\necho $@ >> {tmp_path}/scontrol.said\n")
    for name in ("srun", "scontrol"):
        (tmp_path / name).chmod(0o755)
    printed = wavalign("run", path, "--launcher", "slurm", "--master", "127.0.0.1", "--print")
    assert printed.returncode == 0, printed.stderr
    (tmp_path / "job.sh").write_text(printed.stdout)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "gpu[1-2]", "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def submitted() -> "subprocess.Popen[bytes]":
        with (tmp_path / "said.txt").open("ab") as log:
            return subprocess.Popen(
                ["bash", str(tmp_path / "job.sh")], cwd=ROOT, env=environment(**job), stdout=log, stderr=log
            )

    first = submitted()
    end = time.monotonic() + 240
    while not any(line["step"] >= 2 for line in lines(tmp_path / "run" / "metrics.jsonl")):
        assert first.poll() is None and time.monotonic() < end, (tmp_path / "said.txt").read_text()
        time.sleep(0.01)
    first.send_signal(signal.SIGUSR1)
    assert first.wait(60) == 138, (tmp_path / "said.txt").read_text()
    assert (tmp_path / "scontrol.said").read_text() == "requeue 7\n"
    assert submitted().wait(240) == 0, (tmp_path / "said.txt").read_text()
    is_the_same(tmp_path / "run", whole)


def test_deepspeeds_launcher(whole: Path, tmp_path: Path) -> None:
    """On this machine alone, which it asks by ssh whether it is there."""
    (tmp_path / "hosts").write_text("localhost slots=2\n")
    (tmp_path / "ssh").write_text("#!/bin/bash\necho 127.0.0.1\n")
    (tmp_path / "ssh").chmod(0o755)
    path = recipe(tmp_path, processes=2)
    where = ("--launcher", "deepspeed", "--hostfile", str(tmp_path / "hosts"), "--master", f"127.0.0.1:{free_port()}")
    found = environment(PATH=f"{tmp_path}:{os.environ['PATH']}")
    done = subprocess.run(
        command("run", path, *where), cwd=ROOT, env=found, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    is_the_same(tmp_path / "run", whole)
