"""`wavalign plan --cluster`: what a recipe takes on a machine that is not here."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from wavalign.errors import PreflightError

from .console import say, say_json, status
from .options import recipe_path

if TYPE_CHECKING:
    from wavalign.engine.compile.machine import Machine
    from wavalign.engine.compile.plan import Memory, Plan
    from wavalign.engine.compile.scaling import Scaled

GB = 1e9


def show(recipe: str, overrides: list[str] | None, spec: str, *, as_json: bool) -> None:
    """Print memory, bytes between processes, time of a step and checkpoints of every stage that learns.

    Raises PreflightError where data or weights cannot be read: how long rows are is counted on them.
    """
    with status("looking at data and weights"):
        from wavalign.engine import api  # brings torch, which no `--help` shall wait for
        from wavalign.engine.compile.machine import parse_machine

        machine = parse_machine(spec)
        where = (f"runtime.nodes={machine.nodes}", f"runtime.processes={machine.gpus}", "runtime.device=cuda")
        settings = (*(overrides or ()), *where)
        plan = api.compile_recipe(api.read_recipe(recipe_path(recipe), settings), machine.cluster)
        found, stages = api.on_cluster(plan, machine)
    bad = [each for each in found.errors if each.what != "memory"]
    if bad:
        raise PreflightError(f"{bad[0].stage}: {bad[0].what}: {bad[0].message}", hint=bad[0].hint)
    if as_json:
        say_json({"machine": asdict(machine), "stages": {x: _record(each) for x, each in stages.items()}})
    else:
        say("\n".join(_lines(plan, machine, dict(found.memory), stages)))


def _lines(
    plan: "Plan", machine: "Machine", memory: "Mapping[str, Memory]", stages: "Mapping[str, Scaled]"
) -> list[str]:
    from .plan_views import memory_lines  # needs the engine's records, which no `--help` shall wait for

    gpus = f"{machine.nodes} x {machine.gpus} GPUs of {machine.gib:g} GiB"
    lines = [
        f"{plan.name} on {gpus}, {machine.processes} processes",
        f"rates: {machine.tflops:g} TFLOPS x {machine.utilisation:g}; GB/s of memory {machine.memory:g}, link "
        f"{machine.link:g}, network {machine.network:g}, a node's store {machine.store:g}; "
        f"{machine.failures:g} failures a node-hour",
    ]
    for name, each in stages.items():
        lines += memory_lines(memory[name], f"stage {name}: ")
        lines += _scaled(name, each, machine)
    return lines if stages else [*lines, "no stage of it learns"]


def _scaled(name: str, each: "Scaled", machine: "Machine") -> list[str]:
    """A stage's bytes, times and checkpoints."""
    sent = [(flow, flow.sent(each.processes)) for flow in each.flows]
    whole, faults, every = sum(size for _, size in sent), each.faults, each.checkpoint_every
    lines = [f"stage {name}: {whole / GB:.3g} GB sent by each process a step"]
    for flow, size in sent:
        what = f"{flow.collective} of {flow.bytes / GB:.3g} GB x {flow.times}, {flow.note}"
        lines.append(f"    {size / GB:.3g} GB  {flow.name}: {what}")
    lines.append(f"stage {name}: {each.step:.3g} s a step where nothing overlaps, by the rates")
    lines += [f"    {seconds:.3g} s  {what}" for what, seconds in each.seconds.items()]
    often = f"a failure every {faults.mean_time / 3600:.3g} h of {machine.nodes} nodes"
    lines.append(
        f"stage {name}: checkpoints of {each.checkpoint_bytes / GB:.3g} GB, {faults.checkpoint:.3g} s each; {often}"
    )
    interval = f"Daly's interval, {every * each.step / 60:.3g} min: {each.goodput:.2%} of the time trains"
    return [*lines, f"    runtime.checkpoint_every: {every}  ({interval})"]


def _record(each: "Scaled") -> dict[str, Any]:
    """A stage as JSON."""
    return {
        "sent_bytes": {flow.name: flow.sent(each.processes) for flow in each.flows},
        "seconds": {**each.seconds, "step": each.step},
        "checkpoint_bytes": each.checkpoint_bytes,
        "checkpoint_seconds": each.faults.checkpoint,
        "mean_seconds_between_failures": each.faults.mean_time,
        "checkpoint_every": each.checkpoint_every,
        "goodput": each.goodput,
    }
