"""The Python surface: what the command line does, as functions."""

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from wavalign import __version__
from wavalign.crash_log import run_folder
from wavalign.engine.compile.adapter import adapter_line, count_weights, trained_line
from wavalign.engine.compile.compiler import compile_recipe as _compile
from wavalign.engine.compile.plan import Cluster, Plan
from wavalign.engine.compile.preflight import Preflight
from wavalign.engine.compile.preflight import preflight as _preflight
from wavalign.engine.launch import launch
from wavalign.engine.report.page import write_report
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.callbacks import Observer, RunInfo, Silent
from wavalign.engine.run.exporting import Exported, ExportOptions, export_model
from wavalign.engine.run.tools import PreflightTools
from wavalign.engine.run.trainer import Trainer
from wavalign.engine.state.distributed import World
from wavalign.engine.state.folder import RunFolder
from wavalign.errors import Interrupted, PluginError, PreflightError, ResumeError, UsageError, WorkersError
from wavalign.schema.dumping import dump_yaml
from wavalign.schema.loading import LoadedRecipe, load_recipe, read_recipe

__all__ = [
    "compile_recipe",
    "detect_cluster",
    "export",
    "load_recipe",
    "preflight",
    "read_recipe",
    "run",
    "run_rank",
    "trained_parts",
]

ROOT = Path("runs")
WORKER = ("-m", "wavalign.engine.worker")
"""Arguments of Python that make a process one rank; the run's folder follows."""
SIGNAL_CODES = 128
"""Exit codes above it say which signal ended a process."""


def detect_cluster() -> Cluster:
    """This machine."""
    gpus = torch.cuda.device_count()
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    memory = [torch.cuda.get_device_properties(index).total_memory for index in range(gpus)]
    return Cluster(gpus=gpus, gpu_bytes=min(memory, default=0), cores=os.cpu_count() or 1, host_bytes=pages * size)


def compile_recipe(loaded: LoadedRecipe, cluster: Cluster | None = None) -> Plan:
    """The plan of a recipe for `cluster`, or for this machine."""
    return _compile(loaded, cluster if cluster is not None else detect_cluster())


def preflight(plan: Plan, observer: Observer | None = None) -> Preflight:
    """Look at data, weights, masks, disk and memory of a plan; starts nothing, builds at most caches of data."""
    watcher = observer if observer is not None else Silent()
    world = World.single("cpu")
    tools = PreflightTools(Builder(plan, world, watcher.progress))
    return _preflight(plan, tools, detect_cluster(), folder=str(_writable_parent(plan)))


def trained_parts(plan: Plan) -> dict[str, str]:
    """By stage, what an adapter trains and how much that is; reads config and tokenizer, allocates nothing.

    A stage whose model cannot be read yet says so instead of a number.
    """
    builder, found = Builder(plan, World.single("cpu"), Silent().progress), {}
    for stage in plan.stages:
        model = stage.stage.model
        if stage.stage.type == "train" and model.adapter is not None:
            try:
                found[stage.name] = trained_line(model, count_weights(model, builder.architecture(stage, None)))
            except PreflightError as error:
                found[stage.name] = f"{adapter_line(model.adapter)}; not counted: {error.message}"
    return found


def run(plan: Plan, *, resume: bool = False, observer: Observer | None = None, worker: Sequence[str] = WORKER) -> Path:
    """Run a plan on this machine and give its folder; `worker` is the command each of several processes is."""
    folder = _folder(plan, resume=resume)
    run_folder.set(folder.path)
    if resume:
        folder.write_text(folder.plan, plan.to_json())  # equal but for options that change nothing that is learned
    else:
        write_opening(plan, folder)
    if plan.processes == 1:
        run_rank(plan, folder, resume=resume, observer=observer)
        return folder.path
    arguments = [*worker, str(folder.path), *(["--resume"] if resume else [])]
    code = launch(arguments, processes=plan.processes, env=os.environ, logs=folder.ranks, threads=plan.runtime.threads)
    if code > SIGNAL_CODES:
        raise Interrupted(code - SIGNAL_CODES)
    if code:
        raise WorkersError(code)
    return folder.path


def run_rank(plan: Plan, folder: RunFolder, *, resume: bool, observer: Observer | None = None) -> None:
    """This process's part of a run; the first rank holds the folder's lock, observes and writes the report."""
    torch.set_num_threads(plan.runtime.threads or max(1, (os.cpu_count() or 1) // plan.processes))
    world = World.from_environment(plan.device)
    watcher = observer if observer is not None and world.is_first else Silent()
    run_folder.set(folder.path)
    if world.is_first:
        folder.lock()
    try:
        watcher.start(_info(plan, folder))
        _train(plan, folder, world, watcher, resume=resume)
    except PluginError as error:
        error.keep_traceback()
        raise
    finally:
        watcher.close()
        world.close()
        folder.unlock()


def export(folder: Path, to: Path, options: ExportOptions | None = None, observer: Observer | None = None) -> Exported:
    """Write the model of a run's (or one stage's) `folder` to `to`, in the layout of the checkpoint it came from."""
    watcher = observer if observer is not None else Silent()
    return export_model(folder, to, options if options is not None else ExportOptions(), watcher.progress)


def write_opening(plan: Plan, folder: RunFolder) -> None:
    """What is known before the first step: plan, resolved recipe, environment."""
    folder.write_text(folder.plan, plan.to_json())
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
            "processor": _processor(),
            "cores": os.cpu_count(),
            "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
            "versions": {name: importlib.metadata.version(name) for name in names if name in installed},
            "command": sys.argv,
        },
    )


def _train(plan: Plan, folder: RunFolder, world: World, watcher: Observer, *, resume: bool) -> None:
    try:
        Trainer(plan, folder, world, watcher).run(resume=resume)
    except Interrupted:
        _report(plan, folder, world)
        raise
    _report(plan, folder, world)
    if world.is_first:
        watcher.finish("\n".join(_places(plan, folder)))


def _places(plan: Plan, folder: RunFolder) -> list[str]:
    """What a person looks at next."""
    return [f"report   {folder.report}"] * plan.runtime.report + [f"model    {folder.model}", f"folder   {folder.path}"]


def _report(plan: Plan, folder: RunFolder, world: World) -> None:
    if plan.runtime.report and world.is_first and folder.metrics.exists():
        write_report(folder.path)


def _folder(plan: Plan, *, resume: bool) -> RunFolder:
    exact = plan.runtime.folder
    if resume:
        found = RunFolder(Path(exact)) if exact else RunFolder.latest_unfinished(ROOT, name=plan.name)
        if found is None or not found.plan.exists():
            where = exact or str(ROOT / plan.name)
            raise UsageError(f"there is no unfinished run in {where}", hint="start one without --resume")
        if found.is_finished:
            raise UsageError(f"{found.path} is finished", hint="start a new run without --resume")
        _check_plan(plan, found)
        return found
    return RunFolder.exact(Path(exact)) if exact else RunFolder.create(ROOT, name=plan.name)


def _check_plan(plan: Plan, folder: RunFolder) -> None:
    """Refuse to go on with another plan than the run began with, also before its first checkpoint."""
    theirs = json.loads(folder.plan.read_text(encoding="utf-8"))["fingerprint"]
    if theirs != plan.fingerprint:
        raise ResumeError(
            f"{folder.path} was begun by plan {theirs}, and this is plan {plan.fingerprint}",
            hint="`wavalign plan RECIPE --diff OLD_RECIPE` shows what differs; start a new run for a new plan",
        )


def _writable_parent(plan: Plan) -> Path:
    path = Path(plan.runtime.folder or ROOT).absolute()
    while not path.exists():
        path = path.parent
    return path


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        if names:
            return names[0]
    return platform.processor()


def _info(plan: Plan, folder: RunFolder) -> RunInfo:
    where = f"{plan.processes} x {_processor() if plan.device == 'cpu' else torch.cuda.get_device_name(0)}"
    return RunInfo(
        name=plan.name,
        folder=str(folder.path),
        total_steps=plan.total_steps,
        seed=plan.seed,
        fingerprint=plan.fingerprint,
        hardware=f"{where}, {plan.runtime.precision}",
    )
