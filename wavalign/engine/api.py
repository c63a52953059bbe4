"""The Python surface: what the command line does, as functions."""

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from wavalign.crash_log import run_folder
from wavalign.engine.benchmarks.comparing import Comparison, compare_folders
from wavalign.engine.benchmarks.evaluating import Asked, Evaluated, Watcher
from wavalign.engine.benchmarks.evaluating import evaluate as _evaluate
from wavalign.engine.causes import signal_text
from wavalign.engine.compile.adapter import adapter_line, count_weights, trained_line
from wavalign.engine.compile.cluster import detect_cluster
from wavalign.engine.compile.compiler import compile_recipe as _compile
from wavalign.engine.compile.machine import Machine
from wavalign.engine.compile.plan import Cluster, Plan
from wavalign.engine.compile.preflight import Preflight
from wavalign.engine.compile.preflight import preflight as _preflight
from wavalign.engine.compile.scaling import Scaled, scaled
from wavalign.engine.launch import Ended, Place, launch
from wavalign.engine.nodes.head import launch_nodes
from wavalign.engine.nodes.joining import Joined
from wavalign.engine.nodes.remote import Nodes
from wavalign.engine.rank import LOCK, joined_world, replay_rank, run_rank
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.choosing import from_folder, from_plan
from wavalign.engine.run.exporting import Exported, ExportOptions, export_model
from wavalign.engine.run.halving import explained, halve
from wavalign.engine.run.observers import Observer, Silent
from wavalign.engine.run.opening import ROOT, Resume, open_run, open_together
from wavalign.engine.run.preflight_tools import PreflightTools
from wavalign.engine.run.progress import is_complete, lost_steps, newest_checkpoint
from wavalign.engine.run.replaying import kept_update
from wavalign.engine.state.checkpoint import CheckpointStore
from wavalign.engine.state.distributed import World
from wavalign.engine.state.folder import RunFolder
from wavalign.errors import Interrupted, OutOfMemoryError, PreflightError, UnfinishedError, UsageError, WorkersError
from wavalign.schema.loading import LoadedRecipe, load_recipe, read_recipe

__all__ = [
    "Asked",
    "Comparison",
    "Evaluated",
    "Resume",
    "compare",
    "compile_recipe",
    "detect_cluster",
    "evaluate",
    "export",
    "load_recipe",
    "on_cluster",
    "preflight",
    "read_recipe",
    "replay",
    "run",
    "run_as_rank",
    "run_rank",
    "trained_parts",
]

WORKER = ("-m", "wavalign.engine.worker")
"""Arguments of Python that make a process one rank; the run's folder follows."""


def compile_recipe(loaded: LoadedRecipe, cluster: Cluster | None = None) -> Plan:
    """The plan of a recipe for `cluster`, or for this machine."""
    return _compile(loaded, cluster if cluster is not None else detect_cluster())


def preflight(plan: Plan, observer: Observer | None = None, cluster: Cluster | None = None) -> Preflight:
    """Look at data, weights, masks, disk and memory of a plan; starts nothing, builds at most caches of data.

    Memory is that of `cluster`, or of this machine.
    """
    watcher = observer if observer is not None else Silent()
    world = World.single("cpu")
    tools = PreflightTools(Builder(plan, world, watcher.progress))
    where = cluster if cluster is not None else detect_cluster()
    return _preflight(plan, tools, where, folder=str(_writable_parent(plan)))


def on_cluster(plan: Plan, machine: Machine) -> tuple[Preflight, dict[str, Scaled]]:
    """What a plan that was compiled for `machine` takes there: memory, and by stage bytes, times and checkpoints."""
    found, stages = preflight(plan, cluster=machine.cluster), dict[str, Scaled]()
    for stage in plan.stages:
        if stage.name in found.sizes:
            weights, row = found.sizes[stage.name]
            sized = scaled(stage, plan.runtime, weights=weights, row=row, machine=machine)
            stages |= {} if sized is None else {stage.name: sized}
    return found, stages


def trained_parts(plan: Plan) -> dict[str, str]:
    """By stage, what an adapter trains and how much that is; reads config and tokenizer, allocates nothing.

    A stage whose model cannot be read yet says so instead of a number.
    """
    builder, found = Builder(plan, World.single("cpu"), Silent().progress), {}
    for stage in plan.stages:
        model = stage.stage.model
        if stage.kind.learns and model.adapter is not None:
            try:
                found[stage.name] = trained_line(model, count_weights(model, builder.architecture(stage, None)))
            except PreflightError as error:
                found[stage.name] = f"{adapter_line(model.adapter)}; not counted: {error.message}"
    return found


def run(
    plan: Plan,
    *,
    resume: bool | Resume = False,
    observer: Observer | None = None,
    worker: Sequence[str] = WORKER,
    nodes: Nodes | None = None,
) -> Path:
    """Run a plan on this machine, or on `nodes`, and give its folder; `worker` is the command each of its processes is.

    `resume` goes on with a run: from its newest checkpoint, or as a `Resume` says.
    """
    if nodes is None and plan.nodes > 1:
        hint = "--hostfile FILE, --launcher slurm in an allocation, or start every process by torchrun or srun"
        raise UsageError(f"the recipe wants {plan.nodes} nodes, and nothing says which", hint=hint)
    said: list[str] = []
    watcher = observer if observer is not None else Silent()
    folder = open_run(plan, Resume() if resume is True else resume or None, said.append)
    run_folder.set(folder.path)
    try:
        said += [line] if (line := halve(folder.path)) else []
        if plan.processes == 1 and nodes is None:
            run_rank(folder, plan=plan, resume=bool(resume), observer=observer, said=said)
        else:
            for text in said:
                watcher.message(text)
            _launched(plan, folder, worker, nodes, resume=bool(resume))
        _check_finished(plan, folder)
    except OutOfMemoryError as error:
        raise explained(error, lambda: dict(preflight(plan).memory)) from error
    finally:
        folder.unlock()
    return folder.path


def run_as_rank(plan: Plan, place: Joined, *, resume: bool | Resume = False, observer: Observer | None = None) -> Path:
    """This process's part of a run whose processes somebody else started; gives the folder, chosen by the first."""
    if plan.processes != place.size:
        wanted = f"{plan.nodes} x {plan.processes_per_node}" if plan.nodes > 1 else str(plan.processes)
        hint = "set runtime.processes to what each machine starts, or to `auto`; runtime.nodes follows by itself"
        raise UsageError(f"{place.by} started {place.size} processes, and the recipe wants {wanted}", hint=hint)
    os.environ.update(place.variables())
    said: list[str] = []
    world = joined_world(plan)
    try:
        folder = open_together(plan, world, Resume() if resume is True else resume or None, said.append)
    except BaseException:
        world.close()
        raise
    try:
        if world.is_first and (line := halve(folder.path)):
            said.append(line)
        world.barrier()
        run_rank(folder, plan=plan, world=world, resume=bool(resume), observer=observer, said=said)
        if place.rank == 0:
            _check_finished(plan, folder)
    finally:
        folder.unlock()
    return folder.path


def replay(place: Path, say: Callable[[str], None], *, worker: Sequence[str] = WORKER) -> None:
    """Look at a skipped update that a run kept in `place` (RUN/skipped/step-N) once more, on as many processes.

    Says where the first NaN or infinity arises; writes nothing. `say` is not called where several processes speak for
    themselves.
    """
    plan, folder, _ = kept_update(place)
    if plan.processes == 1:
        replay_rank(place, say=say)
        return
    asked = [*worker, str(folder.path.absolute()), "--replay", str(place.absolute())]
    with tempfile.TemporaryDirectory() as logs:
        threads = plan.runtime.threads
        ended = launch(asked, Place(Path(logs)), processes=plan.processes, env=os.environ, threads=threads)
    if ended.code and ended.asked:
        raise Interrupted(ended.asked)
    if ended.code:
        raise WorkersError(ended.code, _blamed(ended), hint="the run's own files are as they were")


def _launched(plan: Plan, folder: RunFolder, worker: Sequence[str], nodes: Nodes | None, *, resume: bool) -> None:
    """Run every rank to the end; once more for each stage one of whose micro-batches did not fit into memory."""
    while True:
        asked = [*worker, str(folder.path.absolute()), *(["--resume"] if resume else [])]
        ended = _launch(plan, folder, asked, nodes)
        line = halve(folder.path) if ended.code and not ended.asked else ""
        if not line:
            raise_for(ended, folder)
            return
        sys.stderr.write(f"{line}\n")
        resume = True


def _launch(plan: Plan, folder: RunFolder, worker: Sequence[str], nodes: Nodes | None) -> Ended:
    """Run every rank in a process of its own."""
    store = CheckpointStore(folder.checkpoints, keep=plan.runtime.keep_checkpoints)
    if nodes is not None:
        told = {
            "folder": str(folder.path.absolute()), "fingerprint": plan.fingerprint, "threads": plan.runtime.threads
        }  # fmt: skip
        place = Place(folder.ranks, is_writing=store.is_writing)
        return launch_nodes(worker, place, nodes, each=plan.processes_per_node, told=told)
    descriptor = folder.lock_descriptor
    assert descriptor is not None
    return launch(
        worker,
        Place(folder.ranks, keep=(descriptor,), is_writing=store.is_writing),
        processes=plan.processes,
        env={**os.environ, LOCK: str(descriptor)},
        threads=plan.runtime.threads,
    )


def raise_for(ended: Ended, folder: RunFolder) -> None:
    """Raise what the end of the processes comes to: Interrupted, or WorkersError with who is to blame."""
    newest, lost = newest_checkpoint(folder), lost_steps(folder)
    if ended.code and ended.asked:
        raise Interrupted(ended.asked, newest, lost=lost)
    if not ended.code:
        return
    kept = f"{newest} is complete, and the same command with --resume goes on from there" if newest else ""
    lost_text = f" ({lost} step{'s' * (lost != 1)} after it are done again)" if lost and newest else ""
    hint = kept + lost_text if kept else "no checkpoint was written; --resume starts again at the first step"
    raise WorkersError(ended.code, _blamed(ended), hint=hint)


def _blamed(ended: Ended) -> str:
    """Which process, where, how it ended and why."""
    where = f" on {ended.node}" if ended.node else ""
    why = f"; {ended.cause}" if ended.cause else ""
    if ended.killed_by:
        return f"process {ended.rank}{where} was ended by signal {signal_text(ended.killed_by)}{why}"
    if ended.cause:
        return f"node {ended.node} was lost with process {ended.rank}: {ended.cause}"
    return f"process {ended.rank}{where} of this run ended with exit code {ended.code}; its message stands above"


def _check_finished(plan: Plan, folder: RunFolder) -> None:
    """A run that ends well has everything: each stage complete, and the mark that is written last."""
    folder.check_held()
    missing = [f"stage {stage.name}" for stage in plan.stages if not is_complete(folder, stage)]
    missing += [] if folder.is_finished else [folder.finished.name]
    if missing:
        raise UnfinishedError(
            f"the run ended without an error and is not complete: {', '.join(missing)} missing in {folder.path}",
            hint="--resume goes on with it; a plugin that ends the process by itself does this, too",
        )


def export(folder: Path, to: Path, options: ExportOptions | None = None, observer: Observer | None = None) -> Exported:
    """Write the model of a run's (or one stage's) `folder` to `to`, in the layout of the checkpoint it came from."""
    watcher = observer if observer is not None else Silent()
    return export_model(folder, to, options if options is not None else ExportOptions(), watcher.progress)


def evaluate(
    model: Plan | Path,
    asked: Asked,
    *,
    recipe: Plan | None = None,
    stage: str | None = None,
    at: str | None = None,
    watcher: Watcher | None = None,
) -> Evaluated:
    """A model's answers to a benchmark, written down and scored; what is there already is not done again.

    `model` is a recipe's plan, or a run's, checkpoint's or model's folder; `recipe` says what a model's folder cannot.
    """
    chosen = from_plan(model, stage) if isinstance(model, Plan) else from_folder(model, recipe, stage=stage, at=at)
    return _evaluate(chosen, asked, watcher if watcher is not None else Silent())


def compare(a: Path, b: Path) -> Comparison:
    """Two evaluations' folders, question by question."""
    return compare_folders(a, b)


def _writable_parent(plan: Plan) -> Path:
    path = Path(plan.runtime.folder or ROOT).absolute()
    while not path.exists():
        path = path.parent
    return path
