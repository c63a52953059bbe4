"""SLURM: lists of machines, and a batch script that does what it says under stand-ins for SLURM's commands."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from wavalign.engine.nodes.hostfile import Host
from wavalign.engine.nodes.slurm import Job, allocation, expand_nodelist, script
from wavalign.errors import UsageError


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("login", ["login"]),
        ("a,b-2", ["a", "b-2"]),
        ("node[08-11]", ["node08", "node09", "node10", "node11"]),
        ("n[1,3-4],login", ["n1", "n3", "n4", "login"]),
        ("r[1-2]n[01-02]x", ["r1n01x", "r1n02x", "r2n01x", "r2n02x"]),
    ],
)
def test_lists_of_machines(text: str, names: list[str]) -> None:
    assert expand_nodelist(text) == names


@pytest.mark.parametrize("text", ["", "a[", "a[1", "a,,b", "a b", "a[1-]", "a[-3]"])
def test_what_is_no_list_of_machines(text: str) -> None:
    with pytest.raises(UsageError, match="SLURM's machines"):
        expand_nodelist(text)


def test_the_allocation() -> None:
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_GPUS_PER_NODE": "h100:8"}
    assert allocation(job) == (Host("n1", 8), Host("n2", 8))
    assert allocation({**job, "SLURM_GPUS_PER_NODE": ""}) == (Host("n1", 0), Host("n2", 0))
    assert allocation({"SLURM_JOB_NODELIST": "n1"}) == ()


def job(folder: Path, command: list[str], **changes: str) -> Job:
    return Job(
        "my run",
        nodes=2,
        processes=8,
        gpus=True,
        command=command,
        folder=changes.get("folder", ""),
        options=("time=24:00:00", "exclusive"),
        workplace=str(folder),
    )


def test_what_is_asked_for(tmp_path: Path) -> None:
    lines = script(job(tmp_path, ["x"])).splitlines()
    assert lines[0] == "#!/bin/bash"
    asked = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    wanted = {
        "--job-name=my-run", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=8", "--signal=B:USR1@300",
        "--requeue", "--open-mode=append", f"--chdir={tmp_path}", "--time=24:00:00", "--exclusive",
    }  # fmt: skip
    assert set(asked) == wanted


@pytest.mark.parametrize("option", ["nodes=3", "--signal=x", "time=", "Time=1", "time=1; rm", "time=$(x)"])
def test_options_that_are_none(tmp_path: Path, option: str) -> None:
    given = job(tmp_path, ["x"])
    with pytest.raises(UsageError, match="--slurm"):
        script(Job(given.name, 1, 1, gpus=False, command=["x"], folder="", options=(option,)))


RUN = """#!/bin/bash
echo "$@" >> calls
trap 'echo told; mkdir -p "$folder"; touch "$folder/plan.json"; exit 138' USR1
trap 'echo ended; exit 143' TERM
folder=runs/my-run/slurm-77
touch ready
for i in $(seq 300); do sleep 0.1; done
"""


def submitted(folder: Path) -> "subprocess.Popen[bytes]":
    """The script as SLURM starts it, with a stand-in for the run and for scontrol."""
    stand_in = folder / "run"
    stand_in.write_text(RUN)
    (folder / "scontrol").write_text('#!/bin/bash\necho "$@" > scontrol.said\n')
    for path in (stand_in, folder / "scontrol"):
        path.chmod(0o755)
    path = folder / "job.sh"
    path.write_text(script(job(folder, [str(stand_in), "run", "my recipe.yaml"])))
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "77"}
    (folder / "ready").unlink(missing_ok=True)
    started = subprocess.Popen(["bash", str(path)], cwd=folder, env=environment, start_new_session=True)
    end = time.monotonic() + 30
    while not (folder / "ready").exists():
        assert started.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    return started


def test_the_time_limit_submits_it_again_and_goes_on(tmp_path: Path) -> None:
    first = submitted(tmp_path)
    first.send_signal(signal.SIGUSR1)
    assert first.wait(20) == 138
    assert (tmp_path / "scontrol.said").read_text() == "requeue 77\n"
    second = submitted(tmp_path)
    (tmp_path / "scontrol.said").unlink()
    second.send_signal(signal.SIGTERM)
    assert second.wait(20) == 143
    assert not (tmp_path / "scontrol.said").exists(), "who cancels a job wants it to end"
    given = "run my recipe.yaml --set runtime.folder=runs/my-run/slurm-77"
    assert (tmp_path / "calls").read_text().splitlines() == [given, f"{given} --resume"]
