"""Where `wavalign run` runs: here, on the machines of a hostfile or an allocation, or as a rank of somebody else's."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

import typer

from wavalign.errors import UsageError, WorkersError

from .console import note, say
from .options import compiled, recipe_path

if TYPE_CHECKING:
    from wavalign.engine.compile.plan import Plan
    from wavalign.engine.nodes.hostfile import Host
    from wavalign.engine.nodes.joining import Joined
    from wavalign.engine.nodes.remote import Nodes


@final
class Launcher(StrEnum):
    """Who starts the processes."""

    AUTO = "auto"
    LOCAL = "local"
    SSH = "ssh"
    SLURM = "slurm"
    DEEPSPEED = "deepspeed"


HostfileOption = Annotated[
    Path | None, typer.Option("--hostfile", metavar="FILE", help="Several machines: a line `HOST slots=N` for each.")
]
LauncherOption = Annotated[
    Launcher,
    typer.Option(
        "--launcher",
        help="Who starts the processes: auto looks at the hostfile and the environment; slurm submits a job, or uses "
        "the one it is in; deepspeed hands over to DeepSpeed's own.",
    ),
]
RemoteOption = Annotated[
    str,
    typer.Option(
        "--remote",
        metavar="TEMPLATE",
        help="What starts a node: 'ssh {host} {line}', 'srun -w {host} {command}'.",
    ),
]
MasterOption = Annotated[
    str, typer.Option("--master", metavar="ADDRESS[:PORT]", help="Where processes of several machines meet.")
]
SlurmOption = Annotated[
    list[str] | None,
    typer.Option("--slurm", metavar="OPTION=VALUE", help="For sbatch, e.g. time=24:00:00. Repeatable."),
]
PrintOption = Annotated[bool, typer.Option("--print", help="Show the commands or the script, and start nothing.")]


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """What a person said of it."""

    recipe: str
    overrides: tuple[str, ...] = ()
    hostfile: Path | None = None
    launcher: Launcher = Launcher.AUTO
    remote: str = ""
    master: str = ""
    slurm: tuple[str, ...] = ()
    resume: bool = False
    resuming: tuple[str, ...] = ()
    """`--from` and `--accept`, as they were given."""
    quiet: bool = False

    def command(self) -> list[str]:
        """The same command without what says where it runs, and without --resume."""
        settings = [word for each in self.overrides for word in ("--set", each)]
        return [sys.executable, "-m", "wavalign_cli", "run", self.recipe, *settings, *(["--quiet"] * self.quiet)]


@final
@dataclass(frozen=True, slots=True)
class Target:
    """The plan, and where it runs."""

    plan: "Plan"
    nodes: "Nodes | None" = None
    place: "Joined | None" = None


def target(asked: Asked, environment: Mapping[str, str]) -> Target:
    """Compile for where it runs; raises UsageError where what was asked and the environment contradict each other."""
    from wavalign.engine.nodes.joining import joined  # `--help` shall not wait for it

    place = joined(environment)
    if place is not None:
        _check_alone(asked, place)
        each = place.size // place.nodes if place.nodes else 0
        plan = compiled(asked.recipe, list(asked.overrides), nodes=place.nodes, slots=each)
        return Target(plan, place=place)
    hosts = _hosts(asked, environment)
    plan = _compiled_for(asked, hosts)
    if plan.nodes > 1 and not hosts:
        hosts = _of_allocation(environment, plan.nodes)
    return Target(plan, _nodes(asked, hosts, plan))


def submits(asked: Asked, environment: Mapping[str, str]) -> bool:
    """Whether the run is handed over to a job of SLURM's that is yet to come."""
    return asked.launcher is Launcher.SLURM and "SLURM_JOB_ID" not in environment


def submit(asked: Asked, *, show: bool) -> None:
    """Print the batch script, or hand it to sbatch."""
    from wavalign.engine.nodes.slurm import Job, script, script_path  # `--help` shall not wait for it
    from wavalign.schema.loading import read_recipe

    if asked.hostfile is not None:
        raise UsageError("SLURM names the machines of a job itself", hint="leave --hostfile out")
    runtime = read_recipe(recipe_path(asked.recipe), asked.overrides).recipe.runtime
    if runtime.processes == "auto":
        hint = "set runtime.processes to the GPUs of a node"
        raise UsageError("runtime.processes is auto, and a job asks for a number of GPUs", hint=hint)
    nodes = runtime.nodes if isinstance(runtime.nodes, int) else 1
    plan = compiled(asked.recipe, list(asked.overrides), nodes=nodes, slots=runtime.processes)
    if asked.resume and runtime.folder is None:
        raise UsageError("--resume in a job needs the run's folder", hint="--set runtime.folder=runs/NAME/TIME")
    command = [*asked.command(), "--launcher", "slurm"]
    command += ["--remote", asked.remote] * bool(asked.remote) + ["--master", asked.master] * bool(asked.master)
    text = script(
        Job(
            plan.name,
            nodes=nodes,
            processes=runtime.processes,
            gpus=runtime.device != "cpu",
            command=command,
            folder=runtime.folder or "",
            options=asked.slurm,
            workplace=os.getcwd(),
        )
    )
    if show:
        say(text.rstrip("\n"))
        return
    if shutil.which("sbatch") is None:
        hint = "--print shows the script, for a machine that has it"
        raise UsageError("sbatch is not here: this is no machine of a SLURM cluster", hint=hint)
    path = script_path(plan.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    code = subprocess.run(["sbatch", str(path)], check=False).returncode
    if code:
        raise WorkersError(code, f"sbatch {path} ended with exit code {code}", hint="its words stand above")
    note(f"submitted {path}")


def hand_over(asked: Asked, *, show: bool) -> None:
    """Become DeepSpeed's own launcher, whose processes find their places in the environment."""
    if asked.hostfile is None:
        raise UsageError("DeepSpeed's launcher wants a hostfile", hint="add --hostfile FILE")
    hosts = _hosts(asked, {})
    plan = _compiled_for(asked, hosts)
    address, _, port = asked.master.partition(":")
    where = ["--hostfile", str(asked.hostfile), "--num_gpus", str(plan.processes_per_node)]
    where += ["--master_addr", address] * bool(address) + ["--master_port", port] * bool(port)
    resume = ["--resume", *asked.resuming] if asked.resume else []
    command = [sys.executable, "-m", "deepspeed.launcher.runner", *where, "--no_local_rank", "--module"]
    command += [*asked.command()[2:], *resume]
    if show:
        say(shlex.join(command))
        return
    sys.stdout.flush()
    os.execv(command[0], command)


def show_commands(found: Target) -> None:
    """What would be started, and where."""
    plan, nodes = found.plan, found.nodes
    if found.place is not None:
        say(f"# process {found.place.rank} of {found.place.size}, started by {found.place.by}: it starts no other")
    elif nodes is not None:
        each = plan.processes_per_node
        say(f"# {len(nodes.hosts)} nodes x {each}, {plan.processes} processes that meet at {nodes.meeting_point()}")
        for index, host in enumerate(nodes.hosts):
            last = f" to {(index + 1) * each - 1}" * (each > 1)
            say(f"{shlex.join(nodes.command(host))}  # {host}: process{'es' * (each > 1)} {index * each}{last}")
    else:
        say(f"# this machine, {plan.processes} process{'es' * (plan.processes > 1)}")


# --- inside -----------------------------------------------------------------------------------------------------------


def _check_alone(asked: Asked, place: "Joined") -> None:
    """Two launchers are one too many."""
    other = "--hostfile" if asked.hostfile is not None else f"--launcher {asked.launcher}"
    if asked.hostfile is not None or asked.launcher is not Launcher.AUTO:
        raise UsageError(
            f"{place.by} started this process as {place.rank} of {place.size}, and {other} would start others",
            hint=f"leave {other} out; or unset WORLD_SIZE, RANK and LOCAL_RANK where nobody started it",
        )


def _hosts(asked: Asked, environment: Mapping[str, str]) -> "tuple[Host, ...]":
    """The machines that a file or an allocation names; none for this one alone."""
    from wavalign.engine.nodes.hostfile import read_hostfile  # `--help` shall not wait for it
    from wavalign.engine.nodes.slurm import allocation

    if asked.hostfile is not None:
        if asked.launcher in (Launcher.LOCAL, Launcher.SLURM):
            raise UsageError(f"--hostfile and --launcher {asked.launcher} contradict each other", hint="leave one out")
        return read_hostfile(asked.hostfile)
    if asked.launcher is Launcher.SSH:
        raise UsageError("--launcher ssh wants to know the machines", hint="add --hostfile FILE")
    return allocation(environment) if asked.launcher is Launcher.SLURM else ()


def _of_allocation(environment: Mapping[str, str], wanted: int) -> "tuple[Host, ...]":
    """Those of the job that this is run in, where the recipe alone says how many."""
    from wavalign.engine.nodes.slurm import allocation  # `--help` shall not wait for it

    hosts = allocation(environment)
    if hosts and len(hosts) != wanted:
        raise UsageError(f"the recipe wants {wanted} nodes, and this job has {len(hosts)}", hint="runtime.nodes: auto")
    return hosts


def _compiled_for(asked: Asked, hosts: "tuple[Host, ...]") -> "Plan":
    slots = {host.slots for host in hosts} or {0}
    plan = compiled(asked.recipe, list(asked.overrides), nodes=len(hosts), slots=min(slots))
    if len(slots) > 1 and plan.runtime.processes == "auto":
        counts = ", ".join(f"{host.name} {host.slots}" for host in hosts)
        hint = f"set runtime.processes: {min(slots)}, which all of them have"
        raise UsageError(f"runtime.processes is auto, and the machines differ in slots: {counts}", hint=hint)
    return plan


def _nodes(asked: Asked, hosts: "tuple[Host, ...]", plan: "Plan") -> "Nodes | None":
    from wavalign.engine.nodes.remote import Nodes, check_template, is_here  # `--help` shall not wait for it
    from wavalign.engine.nodes.slurm import SRUN
    from wavalign.schema.environment import secret_names

    if asked.remote:
        check_template(asked.remote)
    if not hosts or (len(hosts) == 1 and not asked.remote and is_here(hosts[0].name)):
        return None
    address, _, port = asked.master.partition(":")
    if port and not (port.isascii() and port.isdecimal()):
        raise UsageError(f"--master {asked.master}: `{port}` is no port", hint="ADDRESS or ADDRESS:PORT")
    return Nodes(
        tuple(host.name for host in hosts),
        template=asked.remote or (SRUN if asked.hostfile is None else ""),
        address=address,
        port=int(port or 0),
        secrets=secret_names(plan.model_dump(mode="json")),
    )
