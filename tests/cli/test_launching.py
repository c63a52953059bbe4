"""Where `wavalign run` runs: what is printed, and what contradicts itself."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.toy.compiled import HERE, compiled, put
from tests.toy.world import toy_recipe, write_recipe
from wavalign.engine.compile.plan import Cluster
from wavalign.errors import RecipeError
from wavalign_cli.app import main

TWO = "one slots=2\ntwo slots=2\n"
AGENT = f"{sys.executable} -m wavalign.engine.nodes.agent"


@pytest.fixture(autouse=True)
def outside_of_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_") or name.endswith("RANK")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def recipe(folder: Path, **runtime: object) -> str:
    return write_recipe(folder, toy_recipe(folder, **runtime))


def hostfile(folder: Path, text: str = TWO) -> str:
    (folder / "hosts").write_text(text)
    return str(folder / "hosts")


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["run", *arguments, "--print"]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    assert main(["run", *arguments]) == code
    return capsys.readouterr().err


def test_a_hostfile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, hosts = recipe(tmp_path, processes="auto"), hostfile(tmp_path)
    lines = shown(capsys, path, "--hostfile", hosts).splitlines()
    assert lines[0] == "# 2 nodes x 2, 4 processes that meet at one"
    words = shlex.split(lines[1], comments=True)
    assert words[0] == "ssh" and words[-2:] == ["one", AGENT]
    assert [line.split("  # ")[1] for line in lines[1:]] == ["one: processes 0 to 1", "two: processes 2 to 3"]
    lines = shown(capsys, path, "--hostfile", hosts, "--remote", "ip netns exec {host} {command}").splitlines()
    assert lines[2].startswith(f"ip netns exec two {AGENT}")
    assert not (tmp_path / "run").exists(), "nothing is started, nothing is written"


def test_the_plan_says_nodes_x_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe(tmp_path, nodes=2, processes=2)
    assert main(["plan", path]) == 0
    assert "2 nodes x 2 processes on cpu" in capsys.readouterr().out
    assert main(["run", path, "--hostfile", hostfile(tmp_path), "--dry-run"]) == 0
    assert "2 nodes x 2 processes, 4 in all" in capsys.readouterr().out


def test_the_step_is_cut_over_all_ranks(tmp_path: Path) -> None:
    geometry = compiled(tmp_path, put("runtime.nodes", 2), put("runtime.processes", 2)).stages[0].geometry
    assert geometry is not None
    assert (geometry.processes, geometry.prompts_per_process, geometry.rows_per_process) == (4, 1, 5)
    with pytest.raises(RecipeError) as caught:
        compiled(tmp_path, put("runtime.nodes", 3), put("runtime.processes", 2))
    assert any("do not divide by 6 processes" in problem.message for problem in caught.value.problems)


def test_where_processes_are_is_free_and_how_many_is_not(tmp_path: Path) -> None:
    """A run of two nodes goes on in two processes of one."""
    one = compiled(tmp_path, put("runtime.processes", 2))
    two = compiled(tmp_path, put("runtime.nodes", 2))
    named = compiled(tmp_path, cluster=HERE.model_copy(update={"nodes": 2, "slots": 1}))
    assert one.fingerprint == two.fingerprint == named.fingerprint
    assert compiled(tmp_path, put("runtime.nodes", 1)).fingerprint == compiled(tmp_path).fingerprint != one.fingerprint
    assert compiled(tmp_path, put("runtime.timeout", 60)).fingerprint == compiled(tmp_path).fingerprint


def test_what_machines_have_room_for(tmp_path: Path) -> None:
    there = Cluster(cores=2, host_bytes=8 << 30, nodes=2, slots=2)
    assert compiled(tmp_path, put("runtime.processes", "auto"), cluster=there).processes == 4
    for change, path in (
        (put("runtime.nodes", 4), "runtime.nodes"),
        (put("runtime.processes", 4), "runtime.processes"),
    ):
        with pytest.raises(RecipeError) as caught:
            compiled(tmp_path, change, cluster=there)
        (problem,) = [each for each in caught.value.problems if each.code == "nodes"]
        assert problem.path == path and problem.where is not None and "auto" in problem.hint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--launcher", "ssh"), "wants to know the machines"),
        (("--launcher", "local", "--hostfile", "HOSTS"), "contradict each other"),
        (("--launcher", "slurm", "--hostfile", "HOSTS"), "SLURM names the machines"),
        (("--launcher", "deepspeed"), "wants a hostfile"),
        (("--slurm", "time=1"), "--slurm goes with --launcher slurm"),
        (("--hostfile", "HOSTS", "--remote", "ssh {line}"), "lacks {host}"),
        (("--hostfile", "HOSTS", "--master", "one:x"), "`x` is no port"),
        (("--set", "runtime.nodes=2"), "the recipe wants 2 nodes, and nothing says which"),
        (("--launcher", "slurm", "--slurm", "nodes=9", "--print"), "the recipe decides nodes"),
        (("--launcher", "slurm", "--set", "runtime.processes=auto", "--print"), "asks for a number of GPUs"),
    ],
)
def test_what_contradicts_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    hosts = hostfile(tmp_path)
    given = [hosts if each == "HOSTS" else each for each in arguments]
    said = refused(capsys, recipe(tmp_path), *given)
    assert message in said
    assert "hint:" in said


def test_machines_that_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hosts = hostfile(tmp_path, "one slots=2\ntwo slots=1\n")
    assert "one 2, two 1" in refused(capsys, recipe(tmp_path, processes="auto"), "--hostfile", hosts)


def test_two_launchers(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "one", "MASTER_PORT": "29500"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    said = refused(capsys, recipe(tmp_path), "--hostfile", hostfile(tmp_path))
    assert "started this process as 1 of 4, and --hostfile would start others" in said
    said = refused(capsys, recipe(tmp_path))
    assert "started 4 processes, and the recipe wants 1" in said
    assert "runtime.processes" in said
    assert "process 1 of 4" in shown(capsys, recipe(tmp_path))


def test_a_script_for_slurm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = recipe(tmp_path, nodes=2, processes=2, device="auto")
    text = shown(capsys, path, "--launcher", "slurm", "--slurm", "time=24:00:00", "--set", "seed=4")
    assert "#SBATCH --nodes=2\n" in text and "#SBATCH --gpus-per-node=2\n" in text
    assert "#SBATCH --time=24:00:00\n" in text and "#SBATCH --signal=B:USR1@300\n" in text
    assert f"wavalign_cli run {path} --set seed=4 --launcher slurm" in text
    assert f"folder={tmp_path / 'run'}\n" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    assert "--gpus-per-node" not in shown(capsys, path, "--launcher", "slurm", "--set", "runtime.device=cpu")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "sbatch is not here" in refused(capsys, path, "--launcher", "slurm")
    assert not (tmp_path / "runs").exists()
    (tmp_path / "sbatch").write_text(
        f"#!{sys.executable}\nimport sys, pathlib\npathlib.Path('got').write_text(sys.argv[1])\n"
    )
    (tmp_path / "sbatch").chmod(0o755)
    assert main(["run", path, "--launcher", "slurm"]) == 0
    assert "#SBATCH --nodes=2\n" in Path((tmp_path / "got").read_text()).read_text()


def test_within_a_job(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "gpu[3-4]")
    for arguments in (("--launcher", "slurm"), ("--set", "runtime.nodes=2")):
        lines = shown(capsys, recipe(tmp_path), *arguments).splitlines()
        assert lines[0] == "# 2 nodes x 1, 2 processes that meet at gpu3"
        start = f"srun --overlap --nodes=1 --ntasks=1 --nodelist=gpu4 {AGENT}  # gpu4: process 1"
        assert lines[2] == start
    assert "the recipe wants 3 nodes, and this job has 2" in refused(
        capsys,
        recipe(tmp_path),
        "--set",
        "runtime.nodes=3",
        "--set",
        "batch.prompts=3",
        "--set",
        "batch.demonstrations=3",
    )


def test_deepspeeds_launcher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, hosts = recipe(tmp_path), hostfile(tmp_path)
    text = shown(capsys, path, "--launcher", "deepspeed", "--hostfile", hosts, "--resume", "--set", "seed=4")
    words = shlex.split(text)
    assert words[1:5] == ["-m", "deepspeed.launcher.runner", "--hostfile", hosts]
    assert words[-7:] == ["--module", "wavalign_cli", "run", path, "--set", "seed=4", "--resume"]
    assert "--no_local_rank" in words and words[words.index("--num_gpus") + 1] == "1"
