"""What one rank of a run does, whoever started it: the process that asked for the run, a worker, or another launcher.

The ranks find one another by the environment (`World.from_environment`); the first takes over the folder's lock from
the process that holds it and waits.
"""

import faulthandler
import gc
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import torch

from wavalign.crash_log import run_folder
from wavalign.engine.compile.plan import Plan
from wavalign.engine.launch import watch_launcher
from wavalign.engine.report.page import write_report
from wavalign.engine.run.estimating import keep_estimate
from wavalign.engine.run.halving import halve, leave_mark
from wavalign.engine.run.observers import Observer, RunInfo, Silent
from wavalign.engine.run.opening import processor
from wavalign.engine.run.progress import planned
from wavalign.engine.run.replaying import kept_update, replay
from wavalign.engine.run.trainer import Trainer
from wavalign.engine.state.distributed import World
from wavalign.engine.state.files import full_disk, read_json
from wavalign.engine.state.folder import RunFolder
from wavalign.engine.state.rank_lock import locked_as_rank
from wavalign.engine.state.watch import free_waiting
from wavalign.errors import Interrupted, OutOfMemoryError, PluginError

LOCK = "WAVALIGN_LOCK"
"""Names the descriptor of the folder's lock in the workers' environment."""


def run_rank(
    folder: RunFolder,
    *,
    resume: bool,
    plan: Plan | None = None,
    world: World | None = None,
    observer: Observer | None = None,
    said: Sequence[str] = (),
) -> None:
    """This process's part of a run, whose folder is locked; the first rank observes and writes the report.

    Without a `plan` that of the folder is read, without a `world` the others are looked for. `said` is told first.
    """
    plan = plan if plan is not None else planned(folder)
    torch.set_num_threads(plan.runtime.threads or max(1, (os.cpu_count() or 1) // plan.processes_per_node))
    watch_launcher(free_waiting)
    if plan.processes > 1 and not faulthandler.is_enabled():
        faulthandler.enable()  # where native code fails, Python's stack is in the rank's log
    world = world if world is not None else joined_world(plan)
    watcher = observer if observer is not None and world.is_first else Silent()
    run_folder.set(folder.path)
    if world.is_first and LOCK in os.environ and folder.lock_descriptor is None:
        folder.inherit_lock(int(os.environ[LOCK]))
    alone = world.is_first and folder.lock_descriptor is None
    try:
        watcher.start(_info(plan, folder))
        for text in said:
            watcher.message(text)
        with full_disk(str(folder.path)), locked_as_rank(folder.path) if alone else nullcontext():
            while line := _trains(plan, folder, world, watcher, resume=resume):
                watcher.message(line)
                resume = True
    except PluginError as error:
        error.keep_traceback()
        raise
    finally:
        watcher.close()
        world.close()


def replay_rank(place: Path, *, world: World | None = None, say: Callable[[str], None] = lambda _: None) -> None:
    """This process's part of looking at the skipped update kept in `place` once more; the first rank speaks."""
    plan, folder, _ = kept_update(place)
    torch.set_num_threads(plan.runtime.threads or max(1, (os.cpu_count() or 1) // plan.processes_per_node))
    watch_launcher(free_waiting)
    world = world if world is not None else joined_world(plan)
    run_folder.set(folder.path)
    try:
        replay(place, world, say)
    except PluginError as error:
        error.keep_traceback()
        raise
    finally:
        world.close()


def joined_world(plan: Plan) -> World:
    """The ranks that this process's environment describes; each has the recipe's patience with the others."""
    return World.from_environment(plan.device, patience=timedelta(seconds=plan.runtime.timeout))


def _trains(plan: Plan, folder: RunFolder, world: World, watcher: Observer, *, resume: bool) -> str:
    """Train to the end; gives why the run is to be taken up again at once, which a single process does by itself."""
    try:
        _train(plan, folder, world, watcher, resume=resume)
    except OutOfMemoryError as error:
        leave_mark(folder.path, world.rank, error)
        if world.size > 1:  # the others may stand in a collective for ever: whoever started them all begins anew
            raise
    else:
        return ""
    gc.collect()  # what the failed step held, before there is a second network
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return halve(folder.path)


def _train(plan: Plan, folder: RunFolder, world: World, watcher: Observer, *, resume: bool) -> None:
    trainer = Trainer(plan, folder, world, watcher)
    try:
        trainer.run(resume=resume)
    except BaseException as error:
        if isinstance(error, Interrupted):
            _report(plan, folder, world, watcher)
            copied = not error.at_once
        else:  # of several processes the others have ended, and this one's word must not wait for a store
            copied = world.size == 1
        if copied:
            trainer.copy_rest()
        raise
    _report(plan, folder, world, watcher, complete=True)
    if world.is_first:
        folder.check_held()
        folder.finish(planned=plan.total_steps)
        trainer.copy_rest()
        watcher.finish("\n".join(_places(plan, folder)))


def _places(plan: Plan, folder: RunFolder) -> list[str]:
    """What a person looks at next."""
    model = [f"model    {folder.model}"] * folder.model.exists()
    if model and plan.runtime.keep_best is not None:
        held = read_json(folder.best)
        chosen = f", the best by {held['metric']}: {held['value']:.4g}" if "metric" in held else ""
        model = [f"{model[0]} (of step {held['step']}{chosen})"]
    return [f"report   {folder.report}"] * plan.runtime.report + [*model, f"folder   {folder.path}"]


def _report(plan: Plan, folder: RunFolder, world: World, watcher: Observer, *, complete: bool = False) -> None:
    if plan.runtime.report and world.is_first and folder.metrics.exists():
        watcher.waiting("writing the report", 0, 0)
        if complete:
            keep_estimate(plan, folder)
        write_report(folder.path, complete=complete)


def _info(plan: Plan, folder: RunFolder) -> RunInfo:
    nodes = f"{plan.nodes} nodes, " if plan.nodes > 1 else ""
    where = f"{nodes}{plan.processes} x {processor() if plan.device == 'cpu' else torch.cuda.get_device_name(0)}"
    return RunInfo(
        name=plan.name,
        folder=str(folder.path),
        total_steps=plan.total_steps,
        seed=plan.seed,
        fingerprint=plan.fingerprint,
        hardware=f"{where}, {plan.runtime.precision}",
    )
