"""Before a run's first step: its folder, chosen, locked and described; for a resume, whether its plan is the same."""

import importlib.metadata
import os
import platform
import socket
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch

from wavalign import __version__
from wavalign.engine.compile.plan import Plan
from wavalign.engine.compile.resuming import PlanChanges
from wavalign.engine.run.copying import checkpoint_in, fetch_run, is_address
from wavalign.engine.state.checkpoint import Checkpoint, CheckpointStore
from wavalign.engine.state.distributed import World
from wavalign.engine.state.files import full_disk, read_json
from wavalign.engine.state.folder import RunFolder
from wavalign.errors import PreflightError, RankLostError, ResumeError, UsageError, WavAlignError
from wavalign.schema.dumping import dump_yaml

ROOT = Path("runs")
MAY_CHANGE = (
    "what may change: processes, nodes, engine, folder, trackers, report, checkpoint_every, async_checkpoints, "
    "checkpoint_store, keep_checkpoints, keep_every, log_rollouts_every, trace_every, threads, reward_workers, "
    "reward_failure_budget, non_finite_limit and gradient_checkpointing of `runtime`, a reward's timeout, more "
    "`steps`; a mended reward or metric by --accept reward.NAME or metric.NAME"
)

MOVED = (
    "the run goes on with {}: weights and optimiser states are taken over exactly, the data goes on where it stood and "
    "answers are drawn by the same seeds; a process goes on with the random states of the one of its number, a further "
    "one with new ones; sums are added up in another order, so from here on numbers agree to rounding, not to the bit"
)


@final
@dataclass(frozen=True, slots=True)
class Resume:
    """How a run is gone on with."""

    at: str = ""
    """`step-40`, `40` or a checkpoint's path; empty for the newest."""
    accept: frozenset[str] = frozenset()
    """Components that may have changed, e.g. `reward.answer`."""


def open_run(plan: Plan, resume: Resume | None, say: Callable[[str], None]) -> RunFolder:
    """The run's folder, locked, its plan written; raises UsageError or ResumeError when that cannot be.

    Nothing is written before the lock is held.
    """
    fetched = _fetched(plan, resume, say)
    if fetched is not None and resume is not None:
        resume = replace(resume, at=checkpoint_in(resume.at))
    folder = fetched if fetched is not None else _found(plan, resume)
    with full_disk(str(folder.path)):
        folder.lock()
        return _opened(plan, folder, resume, say)


def open_together(plan: Plan, world: World, resume: Resume | None, say: Callable[[str], None]) -> RunFolder:
    """The same where somebody else started the processes: the first one opens the folder, the others are told it.

    Every rank calls it. Raises PreflightError where machines differ in what they read or see.
    """
    prints = world.gather([plan.fingerprint, socket.gethostname()])
    for rank, (fingerprint, host) in enumerate(prints):
        if fingerprint != prints[0][0]:
            message = f"process {rank} on {host} has plan {fingerprint}, process 0 on {prints[0][1]} {prints[0][0]}"
            hint = "the recipe, what it extends and its plugin files must be the same on every machine"
            raise PreflightError(message, hint=hint)
    opened: RunFolder | WavAlignError | None = None
    if world.is_first:
        try:
            opened = open_run(plan, resume, say)
        except WavAlignError as error:  # told to the others before it ends this one
            opened = error
    told = [str(opened.path.absolute()), ""] if isinstance(opened, RunFolder) else ["", str(opened)]
    path, problem = world.broadcast(told)
    if isinstance(opened, WavAlignError):
        raise opened
    if problem:
        raise RankLostError("the first process could not open the run's folder", hint=problem)
    folder = opened if opened is not None else RunFolder(Path(path))
    blind = [host for (_, host), seen in zip(prints, world.gather(folder.plan.exists()), strict=True) if not seen]
    if blind:
        hint = "it must lie on a file system that all machines share: set runtime.folder"
        folder.unlock()
        raise PreflightError(f"{blind[0]} does not see the run's folder {path}", hint=hint)
    return folder


def _opened(plan: Plan, folder: RunFolder, resume: Resume | None, say: Callable[[str], None]) -> RunFolder:
    try:
        if resume is None:
            folder.check_free()  # another run may have come and gone since the folder was chosen
            folder.sweep()
            _write_opening(plan, folder)
            folder.write_text(folder.plan, plan.to_json())  # last: a folder with a plan holds a run
        else:
            _reopen(plan, folder, resume, say)
    except BaseException:
        folder.unlock()
        raise
    return folder


def _fetched(plan: Plan, resume: Resume | None, say: Callable[[str], None]) -> RunFolder | None:
    """The run's folder, fetched from a store that is named, or that the recipe names where nothing of it is here."""
    exact = plan.runtime.folder
    at = resume.at if resume is not None else ""
    if resume is not None and not at and plan.runtime.checkpoint_store is not None:
        here = RunFolder(Path(exact)) if exact else RunFolder.latest_unfinished(ROOT, name=plan.name)
        at = plan.runtime.checkpoint_store if here is None or not here.plan.exists() else ""
    if not is_address(at):
        return None
    folder = RunFolder.exact(Path(exact)) if exact else RunFolder.create(ROOT, name=plan.name)
    fetch_run(at, folder, say)
    return folder


def _found(plan: Plan, resume: Resume | None) -> RunFolder:
    exact = plan.runtime.folder
    if resume is None:
        return RunFolder.exact(Path(exact)) if exact else RunFolder.create(ROOT, name=plan.name)
    at = Path(resume.at)
    if len(at.parts) > 1:
        if exact and Path(exact).resolve() != at.resolve().parent.parent:
            raise UsageError(f"{at} is no checkpoint of {exact}", hint="leave runtime.folder out, or name a step")
        found: RunFolder | None = RunFolder(at.parent.parent)
    else:
        found = RunFolder(Path(exact)) if exact else RunFolder.latest_unfinished(ROOT, name=plan.name)
    if found is None or not found.plan.exists():
        where = exact or (str(at.parent.parent) if len(at.parts) > 1 else str(ROOT / plan.name))
        raise UsageError(f"there is no unfinished run in {where}", hint="start one without --resume")
    return found


def _reopen(plan: Plan, folder: RunFolder, resume: Resume, say: Callable[[str], None]) -> None:
    old = read_json(folder.plan)
    store = CheckpointStore(folder.checkpoints, keep=plan.runtime.keep_checkpoints)
    chosen = _chosen(store, folder, resume.at)
    _check_finished(plan, folder, chosen)
    standing = _standing(plan, folder, chosen if chosen is not None else store.latest())
    earlier = _check_plan(old, plan, folder, accept=resume.accept, stage=standing, say=say)
    folder.sweep()
    folder.finished.unlink(missing_ok=True)
    if chosen is not None:
        for stage in plan.stages[standing:]:
            folder.complete(stage.name).unlink(missing_ok=True)
        aside = store.set_aside(chosen.step)
        if aside is not None:
            say(f"going on from {chosen.folder}; later checkpoints were moved to {aside}")
    if not (folder.recipe.exists() and folder.environment.exists()) or earlier != old.get("earlier", []):
        _write_opening(plan, folder)
    folder.write_text(folder.plan, plan.to_json(earlier, resume.accept))


def _check_finished(plan: Plan, folder: RunFolder, chosen: Checkpoint | None) -> None:
    """A finished run is gone on with from a named checkpoint, or when it is to have more steps."""
    if not folder.is_finished or chosen is not None:
        return
    if plan.total_steps <= int(read_json(folder.finished).get("planned", 0)):
        raise UsageError(
            f"{folder.path} is finished",
            hint="start a new run without --resume, raise `steps`, or name a checkpoint with --from",
        )


def _chosen(store: CheckpointStore, folder: RunFolder, at: str) -> Checkpoint | None:
    if not at:
        return None
    name = Path(at).name.removeprefix("step-")
    there = store.steps()
    if not name.isdecimal() or int(name) not in there:
        have = ", ".join(f"step-{step}" for step in there) or "none"
        raise UsageError(f"{folder.checkpoints} has no checkpoint '{at}'", hint=f"it has: {have}")
    return store.at(int(name))


def _standing(plan: Plan, folder: RunFolder, checkpoint: Checkpoint | None) -> int:
    """Index of the stage that the run stands in: that of its checkpoint, or the last one that is complete."""
    names = [stage.name for stage in plan.stages]
    complete = [index for index, name in enumerate(names) if folder.complete(name).exists()]
    stage = str(checkpoint.meta.get("stage", "")) if checkpoint is not None else ""
    return max([names.index(stage) if stage in names else 0, *complete])


def _check_plan(
    old: Mapping[str, Any],
    plan: Plan,
    folder: RunFolder,
    *,
    accept: Collection[str],
    stage: int,
    say: Callable[[str], None],
) -> list[str]:
    """Refuse another plan than the run was begun by, also before a checkpoint; gives the fingerprints it had before."""
    theirs, earlier = old.get("fingerprint"), list(old.get("earlier", ()))
    if theirs == plan.fingerprint:
        return earlier
    try:
        changes = PlanChanges(old, plan, accepted=accept, stage=stage)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ResumeError(
            f"{folder.plan} is damaged, or of another version: {error!r}",
            hint="put the file back from a copy, or start a new run",
        ) from error
    if changes.unknown:
        known = "reward.NAME, metric.NAME, or a plugin as the refusal names it"
        raise UsageError(f"the plan has no {', '.join(changes.unknown)}", hint=f"--accept takes {known}")
    if changes.refused:
        raise ResumeError(
            f"{folder.path} was begun by plan {theirs}, and this is plan {plan.fingerprint}; what differs:\n"
            f"  {changes.text()}",
            hint=f"undo it, or start a new run (`wavalign plan RECIPE --diff OLD_RECIPE` compares two). {MAY_CHANGE}",
        )
    if changes.moved:
        say(MOVED.format(" and ".join(changes.moved)))
    if changes.raised:
        say(_raised(plan, stage))
    return [*earlier, str(theirs)]


def _raised(plan: Plan, index: int) -> str:
    """What more steps do to what depends on their number."""
    stage = plan.stages[index]
    shape = stage.stage.optim.schedule.shape
    gate = stage.stage.objective.gate if stage.stage.objective is not None else None
    follow = [f"the {shape} learning rate"] * (shape != "constant")
    if gate is not None and gate.type == "linear":
        follow.append("the gate linear")
    text = f"stage {stage.name} now has {stage.steps} steps"
    if follow:
        text += (
            f"; from here on {' and '.join(follow)} is that of a run of {stage.steps} steps, not the one it began by"
        )
    return text


def _write_opening(plan: Plan, folder: RunFolder) -> None:
    """The resolved recipe and the environment."""
    content = plan.model_dump(mode="json", exclude={"stages", "version", "plugin_digests", "device", "processes"})
    content["stages"] = [stage.stage.model_dump(mode="json") for stage in plan.stages]
    folder.write_text(folder.recipe, dump_yaml(content))
    names = ("torch", "transformers", "deepspeed", "pydantic", "numpy", "safetensors")
    installed = {each.metadata["Name"].lower() for each in importlib.metadata.distributions() if each.metadata["Name"]}
    folder.write_json(
        folder.environment,
        {
            "wavalign": __version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
            "versions": {name: importlib.metadata.version(name) for name in names if name in installed},
            "command": sys.argv,
        },
    )


def processor() -> str:
    """The machine's, in words."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        if names:
            return names[0]
    return platform.processor()
