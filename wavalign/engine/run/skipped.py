"""Updates that were skipped, kept to be looked at: the weights before them, and what each rank learned from.

`skipped/step-N/` in a run's folder is a checkpoint like any other, complete or absent, with a file a rank beside it.
"""

from pathlib import Path
from typing import final

from wavalign.engine.compile.plan import Plan
from wavalign.engine.state.checkpoint import CheckpointStore
from wavalign.engine.state.distributed import World
from wavalign.engine.state.folder import RunFolder
from wavalign.engine.step.skipping import Skipped, UpdateRecord
from wavalign.engine.step.stage import LiveStage

KEPT = 3
"""Steps of a run whose skipped update is kept, besides the one that ends it: each takes as much as a checkpoint."""
_ROWS = "update"
"""Folder of the ranks' files."""


@final
class SkippedUpdates:
    """Those of a run on one rank; every rank calls every method alike."""

    def __init__(self, plan: Plan, folder: RunFolder, world: World) -> None:
        self._plan, self._world = plan, world
        self._store = CheckpointStore(folder.skipped, keep=KEPT + 1)

    def keep(self, live: LiveStage, skipped: Skipped) -> Path | None:
        """Keep an update of a step of which none is kept; gives its folder, None where enough are there."""
        record = skipped.record
        step = live.plan.first_step + record.step + 1
        there = self._world.broadcast(self._store.steps())
        if step in there:
            return self._store.folder_of(step)
        if len(there) >= KEPT and not skipped.is_last:
            return None
        meta = {
            "stage": live.plan.name,
            "stage_step": record.step,
            "update": record.update,
            "what": skipped.what,
            "processes": self._world.size,
            "fingerprint": self._plan.fingerprint,
        }

        def write(folder: Path) -> None:
            live.backend.save(folder)
            (folder / _ROWS).mkdir(exist_ok=True)
            rows_of(folder, self._world.rank).write_bytes(record.to_bytes())

        return self._store.save(step, write, meta=meta, world=self._world)


def rows_of(folder: Path, rank: int) -> Path:
    """The file of what a rank learned of, in a kept update's folder."""
    return folder / _ROWS / f"rank-{rank:05d}.safetensors"


def read_record(folder: Path, rank: int) -> UpdateRecord:
    """What a rank learned of in a kept update; raises ResumeError where the file is none."""
    return UpdateRecord.from_bytes(rows_of(folder, rank).read_bytes())
