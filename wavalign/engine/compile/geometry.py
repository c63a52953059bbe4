"""A step in integers: prompts x group, demonstrations, micro-batches, accumulation, processes."""

from collections.abc import Callable, Sequence
from math import ceil

from wavalign.engine.compile.operators import DEMONSTRATIONS, ROLLOUTS
from wavalign.engine.compile.plan import FamilySize, Geometry, Graph, TermPlan
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
        processes=processes, prompts=0, group_size=0, prompts_per_process=0, rows_per_process=0, micro_batch=1,
        accumulation=1,
    )  # fmt: skip


def plan_geometry(stage: Stage, graph: Graph, terms: Sequence[TermPlan], processes: int, note: Note) -> Geometry:
    """Cut a step into processes, updates and micro-batches; what does not divide is noted as a problem."""
    batch, group = stage.batch, stage.rollout.group_size
    prompts = batch.prompts if graph.gives("rollouts") else 0
    families = {name: _groups(stage, name) for name in graph.made_for("data_rows")}
    for name, count in (("prompts", prompts), *families.items()):
        _check_division(count, name, processes, batch.mini_batches, note)
    rows = prompts // processes * group + sum(count // processes for count in families.values())
    _check_products(stage, rows, note)
    an_update = ceil(rows / batch.mini_batches)
    micro_batch = min(batch.micro_batch or an_update, an_update) or 1
    whole = [term.name for term in terms if term.whole_groups and term.family == ROLLOUTS and term.lives]
    if whole and prompts and micro_batch < group:
        message = f"term `{whole[0]}` keeps groups whole, and {group} answers do not fit a micro-batch of {micro_batch}"
        note("geometry", message, ("batch", "micro_batch"), f"{group} or more")
    return Geometry(
        processes=processes,
        prompts=prompts,
        group_size=group if prompts else 0,
        prompts_per_process=prompts // processes,
        families=tuple(
            FamilySize(name=name, groups=count, groups_per_process=count // processes)
            for name, count in families.items()
        ),
        rows_per_process=rows,
        epochs=batch.epochs,
        mini_batches=batch.mini_batches,
        micro_batch=micro_batch,
        accumulation=max(1, ceil(an_update / micro_batch)),
        micro_batch_tokens=batch.micro_batch_tokens,
        share_prompts=batch.share_prompts,
        packing=batch.packing,
        skip_without_signal=batch.skip_without_signal and can_skip(graph, terms),
    )


def can_skip(graph: Graph, terms: Sequence[TermPlan]) -> bool:
    """Whether there can be rows that teach nothing: a term says so of its own, and no metric asks for all rows."""
    return any(term.signal for term in terms) and not graph.gives("kl")


def _groups(stage: Stage, family: str) -> int:
    """Dialogues a step of a family of rows that comes from data."""
    return stage.batch.demonstrations if family == DEMONSTRATIONS else stage.batch.families.get(family, 16)


def _check_division(count: int, name: str, processes: int, mini_batches: int, note: Note) -> None:
    path: Path = ("batch", name) if name in ("prompts", DEMONSTRATIONS) else ("batch", "families", name)
    if count % processes:
        hint = f"nearest that divide: {nearest_multiples(count, processes)}; or change runtime.processes"
        note("geometry", f"{count} {name} do not divide by {processes} processes", path, hint)
    elif count // processes % mini_batches:
        hint = (
            f"nearest that divide: {nearest_multiples(count, processes * mini_batches)}; or change batch.mini_batches"
        )
        each = f"{count // processes} {name} of a process"
        note("geometry", f"{each} do not divide by {mini_batches} mini-batches", path, hint)
