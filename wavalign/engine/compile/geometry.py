"""A step in integers: prompts x group, demonstrations, micro-batches, accumulation, processes."""

from collections.abc import Callable
from math import ceil

from wavalign.engine.compile.plan import Geometry, Graph
from wavalign.schema.bounds import MOST_ROWS
from wavalign.schema.marks import Path
from wavalign.schema.stage import Stage

MOST_STEP_TOKENS = 1 << 31
"""Of a process: what 32-bit indices of kernels and cells of a table can count."""
Note = Callable[[str, str, Path, str], None]
"""Takes a problem's code, message, path and hint."""


def nearest_multiples(value: int, of: int) -> str:
    """The nearest values that divide by `of`, for a hint."""
    below, above = value // of * of, ceil(value / of) * of
    return f"{below} or {above}" if below > 0 else f"{above}"


def _check_products(stage: Stage, rows: int, note: Note) -> None:
    """Numbers that are fine by themselves and too many together."""
    longest = stage.rollout.max_new_tokens
    if rows > MOST_ROWS:
        message = f"a step has {rows} rows a process, and {MOST_ROWS} is the most"
        note("geometry", message, ("batch",), "lower batch.prompts, rollout.group_size or batch.demonstrations")
    elif rows * longest > MOST_STEP_TOKENS:
        message = f"a step has {rows} rows of up to {longest} tokens a process: more than {MOST_STEP_TOKENS} in all"
        note("geometry", message, ("rollout", "max_new_tokens"), "lower it, batch.prompts or rollout.group_size")


def only_measuring(processes: int) -> Geometry:
    """Of a stage without steps."""
    return Geometry(
        processes=processes,
        prompts=0,
        group_size=0,
        demonstrations=0,
        prompts_per_process=0,
        demonstrations_per_process=0,
        rows_per_process=0,
        micro_batch=1,
        accumulation=1,
    )


def plan_geometry(stage: Stage, graph: Graph, processes: int, note: Note) -> Geometry:
    """Cut a step into processes and micro-batches; what does not divide is noted as a problem."""
    prompts = stage.batch.prompts if graph.has("rollout") else 0
    demonstrations = stage.batch.demonstrations if graph.has("demonstrations") else 0
    for name, count in (("prompts", prompts), ("demonstrations", demonstrations)):
        if count % processes:
            hint = f"nearest that divide: {nearest_multiples(count, processes)}; or change runtime.processes"
            note("geometry", f"{count} {name} do not divide by {processes} processes", ("batch", name), hint)
    if prompts and stage.rollout.group_size < 2 and graph.has("advantage"):
        message = "a group of 1 has no advantage: it is compared with itself"
        note("geometry", message, ("rollout", "group_size"), "2 or more; the papers use 4 and 8")
    rows = prompts // processes * stage.rollout.group_size + demonstrations // processes
    _check_products(stage, rows, note)
    micro_batch = min(stage.batch.micro_batch or rows, rows) or 1
    return Geometry(
        processes=processes,
        prompts=prompts,
        group_size=stage.rollout.group_size if prompts else 0,
        demonstrations=demonstrations,
        prompts_per_process=prompts // processes,
        demonstrations_per_process=demonstrations // processes,
        rows_per_process=rows,
        micro_batch=micro_batch,
        accumulation=max(1, ceil(rows / micro_batch)),
    )
