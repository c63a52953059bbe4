"""A skipped update once more, on the ranks it was computed on: where the first value that is no number arises."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wavalign.engine.compile.plan import Plan, StagePlan
from wavalign.engine.run.observers import Silent
from wavalign.engine.run.progress import planned
from wavalign.engine.run.skipped import read_record
from wavalign.engine.run.trainer import Trainer
from wavalign.engine.state.checkpoint import Checkpoint, CheckpointStore
from wavalign.engine.state.distributed import World
from wavalign.engine.state.folder import RunFolder
from wavalign.engine.step.diagnosis import Place, diagnose
from wavalign.engine.step.skipping import UpdateRecord
from wavalign.errors import ResumeError, UsageError


def kept_update(place: Path) -> tuple[Plan, RunFolder, Checkpoint]:
    """The plan, the run and the kept update that `place` is; raises UsageError where it is none."""
    whole = place.absolute()
    folder = RunFolder(whole.parent.parent)
    steps = CheckpointStore(folder.skipped, keep=1).steps() if folder.plan.is_file() else []
    if whole.parent != folder.skipped or whole.name not in [f"step-{step}" for step in steps]:
        have = ", ".join(f"step-{step}" for step in steps) or "none"
        hint = f"name RUN/skipped/step-N; {folder.path} keeps: {have}"
        raise UsageError(f"{place} is no update that a run skipped and kept", hint=hint)
    checkpoint = CheckpointStore(folder.skipped, keep=1).at(int(whole.name.removeprefix("step-")))
    return planned(folder), folder, checkpoint


def replay(place: Path, world: World, say: Callable[[str], None]) -> None:
    """Compute the update again and say what is found; every rank calls it, the first one speaks, nothing is written."""
    plan, folder, checkpoint = kept_update(place)
    meta = checkpoint.meta
    if meta["processes"] != world.size:
        hint = "ranks share the rows of a step: start as many as there were"
        raise ResumeError(f"{place} was computed by {meta['processes']} processes, not {world.size}", hint=hint)
    stage = next((each for each in plan.stages if each.name == meta["stage"]), None)
    if stage is None:
        raise ResumeError(f"{place} is of stage {meta['stage']}, which the run's plan does not have")
    trainer = Trainer(plan, folder, world, Silent())
    trainer.prepare(stage)
    live = trainer.builder.stage(stage, trainer.start_folder(stage))
    try:
        CheckpointStore(folder.skipped, keep=1).load(checkpoint, live.backend.load, world=world)
        record = read_record(checkpoint.folder, world.rank)
        found = diagnose(live, record)
    finally:
        live.close()
    places = [[Place(**each) for each in mine] for mine in world.gather([asdict(each) for each in found.places])]
    if world.is_first:
        for line in _lines(meta, stage, record, places, norm=found.norm):
            say(line)


def _lines(
    meta: Mapping[str, Any], stage: StagePlan, record: UpdateRecord, places: Sequence[Sequence[Place]], *, norm: str
) -> Iterator[str]:
    """What is to be said of an update."""
    several = len(places) > 1
    ranks = f" on each of {len(places)} processes" if several else ""
    yield (
        f"step {record.step + 1} of stage '{stage.name}', update {record.update + 1}: "
        f"{len(record.micro_batches)} micro-batches{ranks}; the run said: {meta['what']}"
    )
    first = [(mine[0].micro_batch, rank) for rank, mine in enumerate(places) if mine]
    if not first:
        yield f"every value is finite this time, and {norm}: it did not happen again, or it is the sum that overflows"
        return
    number, rank = min(first)
    mine = [each for each in places[rank] if each.micro_batch == number]
    yield f"first: {mine[0]}" + (f" (process {rank})" if several else "")
    for each in mine[1:]:
        yield f"then: {each}"
    others = sum(len(each) for each in places) - len(mine)
    if others:
        yield f"and {others} more of other micro-batches or processes"
    yield norm
