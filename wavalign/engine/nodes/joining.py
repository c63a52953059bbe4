"""A process that somebody else started as a rank: torchrun, mpirun with its variables, DeepSpeed, srun."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from wavalign.engine.nodes.slurm import expand_nodelist
from wavalign.errors import UsageError

_NAMES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_FIRST_PORT, _PORTS = 15_000, 10_000


@final
@dataclass(frozen=True, slots=True)
class Joined:
    """The place that a process was given."""

    rank: int
    size: int
    local_rank: int
    nodes: int
    """Machines; 0 where nobody says."""
    address: str
    port: int
    by: str
    """Who gave it, in words."""

    def variables(self) -> dict[str, str]:
        """The same in the variables that libraries read."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


def joined(environment: Mapping[str, str] = os.environ) -> Joined | None:
    """The place in `environment`; None where nobody gave one. Raises UsageError where it contradicts itself."""
    if "WORLD_SIZE" in environment:
        return _by_variables(environment)
    stray = [name for name in ("RANK", "LOCAL_RANK") if name in environment]
    if stray:
        raise UsageError(
            f"{' and '.join(stray)} is set and WORLD_SIZE is not",
            hint="who starts the processes sets all of RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; "
            f"alone, unset {' '.join(stray)}",
        )
    return _by_srun(environment) if _number(environment, "SLURM_STEP_NUM_TASKS", 1) > 1 else None


def _by_variables(environment: Mapping[str, str]) -> Joined | None:
    size = _number(environment, "WORLD_SIZE")
    if size == 1:
        return None
    missing = [name for name in _NAMES if name not in environment]
    if missing:
        raise UsageError(
            f"WORLD_SIZE is {size} but {', '.join(missing)} is not set",
            hint="torchrun sets them all; srun alone needs WORLD_SIZE unset, and is understood by its own variables",
        )
    rank, local = _number(environment, "RANK"), _number(environment, "LOCAL_RANK")
    of_node = _number(environment, "LOCAL_WORLD_SIZE", 0)
    if rank >= size:
        raise UsageError(f"RANK is {rank} of {size} processes", hint="ranks count from 0 to WORLD_SIZE - 1")
    if of_node and (local >= of_node or size % of_node):
        message = f"LOCAL_RANK is {local} of {of_node} processes on this machine, {size} in all"
        raise UsageError(message, hint="every machine has as many processes as the others")
    theirs = environment.get("SLURM_PROCID", str(rank))
    alike = environment.get("SLURM_STEP_NUM_TASKS") == str(size) and "TORCHELASTIC_RUN_ID" not in environment
    if alike and theirs != str(rank):
        raise UsageError(
            f"RANK is {rank}, and srun started this process as {theirs} of {size}",
            hint="one of them starts the processes: unset RANK and WORLD_SIZE for srun, or run torchrun once a node",
        )
    by = "torchrun" if "TORCHELASTIC_RUN_ID" in environment else "the environment's RANK and WORLD_SIZE"
    return Joined(
        rank, size, local, size // of_node if of_node else 0,
        environment["MASTER_ADDR"], _number(environment, "MASTER_PORT"), by,
    )  # fmt: skip


def _by_srun(environment: Mapping[str, str]) -> Joined:
    size, rank = _number(environment, "SLURM_STEP_NUM_TASKS"), _number(environment, "SLURM_PROCID")
    listed = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST", ""))
    nodes = expand_nodelist(listed)
    each = environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    if size % len(nodes) or (each and "," in each):
        message = f"srun started {size} processes on {len(nodes)} machines ({each or 'unevenly'})"
        raise UsageError(message, hint="srun --ntasks-per-node=N, the same on all of them")
    # One GPU is all that a task sees which was given its own.
    alone = environment.get("SLURM_GPUS_PER_TASK", "").rpartition(":")[2] == "1"
    job = _number(environment, "SLURM_JOB_ID")
    return Joined(
        rank=rank,
        size=size,
        local_rank=0 if alone else _number(environment, "SLURM_LOCALID"),
        nodes=len(nodes),
        address=environment.get("MASTER_ADDR", nodes[0]),
        port=_number(environment, "MASTER_PORT", _FIRST_PORT + job % _PORTS),
        by="srun",
    )


def _number(environment: Mapping[str, str], name: str, otherwise: int | None = None) -> int:
    text = environment.get(name, "" if otherwise is None else str(otherwise))
    if not (text.isascii() and text.isdecimal()):
        said = f"is `{text}`" if name in environment else "is not set"
        raise UsageError(f"{name} {said}, and a number is wanted", hint="who starts the processes sets it")
    return int(text)
