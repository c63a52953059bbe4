"""Places that somebody else gave: each launcher's variables, and what contradicts itself."""

import pytest

from wavalign.engine.nodes.joining import Joined, joined
from wavalign.errors import UsageError

TORCHRUN = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "n1",
    "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "x",
}  # fmt: skip
SRUN = {
    "SLURM_JOB_ID": "123456", "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
}  # fmt: skip


def test_torchrun() -> None:
    place = joined(TORCHRUN)
    assert place == Joined(5, 8, 1, 2, "n1", 29500, "torchrun")
    assert place is not None
    assert place.variables() == {name: TORCHRUN[name] for name in place.variables()}


def test_srun() -> None:
    """The first machine is where they meet, at a port that belongs to the job."""
    assert joined(SRUN) == Joined(5, 8, 1, 2, "gpu07", 15000 + 3456, "srun")
    assert joined({**SRUN, "MASTER_ADDR": "ib07", "MASTER_PORT": "77"}) == Joined(5, 8, 1, 2, "ib07", 77, "srun")


def test_a_task_that_sees_its_own_gpu_alone() -> None:
    place = joined({**SRUN, "SLURM_GPUS_PER_TASK": "h100:1"})
    assert place is not None and (place.rank, place.local_rank) == (5, 0)


def test_torchrun_under_srun() -> None:
    """SLURM's variables are those of torchrun itself, one a machine."""
    place = joined({**TORCHRUN, **SRUN, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"})
    assert place == Joined(5, 8, 1, 2, "n1", 29500, "torchrun")


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WORLD_SIZE": "1", "RANK": "0"},
        {**SRUN, "SLURM_STEP_NUM_TASKS": "1"},
        # what `sbatch` gives its script, of all tasks of the job
        {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
    ],
)
def test_nobody_gave_a_place(environment: dict[str, str]) -> None:
    assert joined(environment) is None


def without(values: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in values.items() if name not in names}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (without(TORCHRUN, "WORLD_SIZE"), "RANK and LOCAL_RANK is set and WORLD_SIZE is not"),
        (without(TORCHRUN, "RANK", "MASTER_PORT"), "RANK, MASTER_PORT is not set"),
        ({**TORCHRUN, "RANK": "8"}, "RANK is 8 of 8 processes"),
        ({**TORCHRUN, "RANK": "-1"}, "RANK is `-1`"),
        ({**TORCHRUN, "WORLD_SIZE": "many"}, "WORLD_SIZE is `many`"),
        ({**TORCHRUN, "LOCAL_RANK": "4"}, "LOCAL_RANK is 4 of 4 processes"),
        ({**TORCHRUN, "WORLD_SIZE": "7"}, "4 processes on this machine, 7 in all"),
        ({**without(TORCHRUN, "TORCHELASTIC_RUN_ID"), **SRUN, "SLURM_PROCID": "2"}, "srun started this process as 2"),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "7"}, "7 processes on 2 machines"),
        ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "5,3"}, "8 processes on 2 machines (5,3)"),
        (without(SRUN, "SLURM_PROCID"), "SLURM_PROCID is not set"),
    ],
)
def test_what_contradicts_itself(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        joined(environment)
    assert message in caught.value.message
    assert caught.value.hint
