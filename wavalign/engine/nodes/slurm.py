"""SLURM: the machines of an allocation, how a process finds its place in a step, and the script that is submitted."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import final

from wavalign.engine.nodes.hostfile import Host
from wavalign.errors import UsageError

SRUN = "srun --overlap --nodes=1 --ntasks=1 --nodelist={host} {command}"
"""How a node of an allocation is started on."""
LEAD = 300
"""Seconds before the time limit at which SLURM tells the run to stop."""
TOLD = 138
"""Exit code of a run that SIGUSR1 told to stop: 128 + 10."""
_OWN = ("nodes", "ntasks", "ntasks-per-node", "job-name", "signal", "requeue", "gpus-per-node", "chdir", "open-mode")
"""Options of the script that the plan decides."""


def expand_nodelist(text: str) -> list[str]:
    """The machines of `node[01-03,7],login`, in order; raises UsageError for another form."""
    if not re.fullmatch(r"[\w.-]+(\[[0-9,-]+\][\w.-]*)*(,[\w.-]+(\[[0-9,-]+\][\w.-]*)*)*", text):
        raise UsageError(f"`{text}` is no list of SLURM's machines", hint="`scontrol show hostnames` prints one")
    names = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        pieces = re.findall(r"\[[^\]]*\]|[^\[]+", part)
        choices = [_numbers(piece[1:-1]) if piece[0] == "[" else [piece] for piece in pieces]
        names += ["".join(each) for each in product(*choices)]
    return names


def _numbers(text: str) -> list[str]:
    found = []
    for each in text.split(","):
        first, dash, last = each.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(
                f"`[{text}]` is no range of SLURM's machines", hint="`scontrol show hostnames` prints them"
            )
        found += [f"{number:0{len(first)}d}" for number in range(int(first), int(last or first) + 1)]
    return found


def allocation(environment: Mapping[str, str] = os.environ) -> tuple[Host, ...]:
    """The machines of the job that this process is in; none outside of one."""
    nodes = environment.get("SLURM_JOB_NODELIST", environment.get("SLURM_NODELIST", ""))
    if "SLURM_JOB_ID" not in environment or not nodes:
        return ()
    return tuple(Host(name, _slots(environment)) for name in expand_nodelist(nodes))


def _slots(environment: Mapping[str, str]) -> int:
    """GPUs of a machine of the job; 0 where it asked for none by number."""
    asked = environment.get("SLURM_GPUS_PER_NODE", environment.get("SLURM_GPUS_ON_NODE", ""))
    number = asked.rpartition(":")[2]  # `h100:8` names their kind
    return int(number) if number.isdecimal() else 0


@final
@dataclass(frozen=True, slots=True)
class Job:
    """What is submitted."""

    name: str
    nodes: int
    processes: int
    """On each node."""
    gpus: bool
    """Whether each of them takes one."""
    command: Sequence[str]
    """What runs it, within the allocation, with neither --resume nor a folder."""
    folder: str
    """Of the run; empty for one named after the job."""
    options: Sequence[str] = ()
    """`time=24:00:00`, `partition=gpu`: of sbatch, as a person gave them."""
    workplace: str = "."


def script(job: Job) -> str:
    """The batch script: it tells the run of the time limit, submits itself again, and then goes on with the run."""
    lines = [
        f"--job-name={_plain(job.name)}",
        f"--nodes={job.nodes}",
        "--ntasks-per-node=1",
        *([f"--gpus-per-node={job.processes}"] if job.gpus else [f"--cpus-per-task={job.processes}"]),
        f"--signal=B:USR1@{LEAD}",
        "--requeue",
        "--open-mode=append",
        f"--chdir={job.workplace}",
        *(_option(each) for each in job.options),
    ]
    folder = shlex.quote(job.folder) if job.folder else f"runs/{_plain(job.name)}/slurm-$SLURM_JOB_ID"
    setting = "" if job.folder else ' --set "runtime.folder=$folder"'
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {line}" for line in lines),
            "# The first node starts a part of the launcher on every node by srun, and stops all of them together.",
            f"folder={folder}",
            "resume=()",
            '[ -e "$folder/plan.json" ] && resume=(--resume)  # submitted again, by hand, by this script or by SLURM',
            f'{shlex.join(job.command)}{setting} "${{resume[@]}}" &',
            "run=$!",
            f"trap 'kill -USR1 \"$run\"' USR1  # {LEAD} s before the time limit: a step ends and leaves a checkpoint",
            "trap 'kill -TERM \"$run\"' TERM",
            "code=0",
            'while wait "$run"; code=$?; kill -0 "$run" 2>/dev/null; do :; done  # a signal ends `wait`, not the run',
            f'[ "$code" -eq {TOLD} ] && scontrol requeue "$SLURM_JOB_ID"',
            'exit "$code"',
            "",
        ]
    )


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]", "-", name)


def _option(text: str) -> str:
    key, equals, value = text.removeprefix("--").partition("=")
    if key in _OWN:
        raise UsageError(f"--slurm {text}: the recipe decides {key}", hint="runtime.nodes and runtime.processes do")
    if not re.fullmatch(r"[a-z][a-z-]*", key) or (equals and not value) or re.search(r"[\s\"'`$\\]", value):
        raise UsageError(f"--slurm {text}: that is no option of sbatch", hint="e.g. --slurm time=24:00:00")
    return f"--{key}{equals}{value}"


def script_path(name: str) -> Path:
    """Where a script is kept that is submitted."""
    return Path("runs") / f"{_plain(name)}.sbatch"
