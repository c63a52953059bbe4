"""How a moment becomes a checkpoint: at once, or beside the steps from a copy of the tensors in host memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from wavalign.engine.run.copying import RunCopies
from wavalign.engine.run.run_log import RunLog
from wavalign.engine.state.background import Background
from wavalign.engine.state.checkpoint import CheckpointStore
from wavalign.engine.state.distributed import World
from wavalign.engine.state.side_channel import Meeting, SideChannel
from wavalign.engine.step.ahead import Kept
from wavalign.engine.step.ahead import write as write_answers
from wavalign.engine.step.stage import LiveStage
from wavalign.errors import WavAlignError

LAST_WAIT = 10.0
"""Seconds that are waited for other ranks' parts of a checkpoint once one of them is lost."""

COPY_WAIT = 5.0
"""Seconds that a copy under way is waited for once the run is asked to end: a store that hangs costs no checkpoint."""
_TICK = 0.2


@final
@dataclass(frozen=True, slots=True)
class Moment:
    """Everything but the weights after a step of a stage."""

    live: LiveStage
    stage_step: int
    meta: Mapping[str, Any]
    in_flight: Kept | None
    """Answers that wait for the next step, of all ranks; None where there are none."""

    @property
    def step(self) -> int:
        """Counted over all stages."""
        return self.live.plan.first_step + self.stage_step

    def write(self, weights: Callable[[Path], None], world: World) -> Callable[[Path], None]:
        """What writes this rank's part of the checkpoint, with `weights` for those of the step."""

        def write(folder: Path) -> None:
            weights(folder)
            if self.in_flight is not None and world.is_first:
                write_answers(folder, self.in_flight())

        return write


@final
class CheckpointWriter:
    """Writes moments into a store on one rank; every rank calls every method alike, but for `finish`."""

    def __init__(self, store: CheckpointStore, world: World, log: RunLog, *, beside: bool) -> None:
        """`beside` lets the steps go on meanwhile."""
        self._store, self._world, self._log, self._beside = store, world, log, beside
        self._background = Background()
        self._meeting: Meeting | None = None
        self.copies: RunCopies | None = None
        """Where checkpoints are copied to; the first rank has it, if it is to."""
        self.hurried: Callable[[], bool] = lambda: False
        """Whether somebody asked for the end of the run."""
        self._copying = False
        """Whether what is under way has written its checkpoint and copies it."""

    @property
    def failed(self) -> bool:
        """Whether what was written beside the steps failed; `settle` raises why."""
        return self._background.failed

    def settle(self, *, copied: bool = True) -> None:
        """Wait for what is written beside the steps, and copied, where that need be; raises what it failed by."""
        if self.copies is not None and not copied:
            self._wait_for_copy(self.copies, lambda: True)  # what is written here comes first
        self._background.wait()
        if self.copies is not None:
            self.copies.copies.stop.clear()

    def finish(self, *, alone: bool) -> str:
        """The same before a run that failed ends; gives why there is no checkpoint, empty where there is one.

        `alone` says that others may not come any more.
        """
        if alone and not self._background.ends_within(LAST_WAIT):
            self.give_up()
        try:
            self.settle(copied=False)
        except WavAlignError as error:
            return error.message
        return ""

    def wait_for_copy(self, say: Callable[[str], None]) -> None:
        """Wait for the copy of the last checkpoint before a run ends, so that another one may begin."""
        if self.copies is not None and not self._background.ends_within(1.0):
            say(f"the last checkpoint is copied to {self.copies.copies.shown}; the run ends after that")
        try:
            self.settle()
        except WavAlignError as error:  # another one may be on its way already
            say(error.message)

    def give_up(self) -> None:
        """Let what is written beside the steps wait for no other rank."""
        if isinstance(self._meeting, SideChannel):
            self._meeting.give_up()

    def write(self, moment: Moment, world: World, *, now: bool) -> None:
        """Make `moment` a checkpoint, unless it is one; beside the steps only where it need not be there `now`."""
        if self.copies is not None:
            self._wait_for_copy(self.copies, self.hurried)
        self.settle()
        self._log.sync()
        if moment.step in self._store.steps():
            self._copy_beside(moment.step)  # one that was broken off is begun anew
            return
        backend = moment.live.backend
        if now or not self._beside:
            self._store.save(moment.step, moment.write(backend.save, world), meta=moment.meta, world=world)
            self._copy_beside(moment.step)
            return
        if self._meeting is None:
            self._meeting = self._world.beside()
        meeting = self._meeting
        self._store.prepare(moment.step, world=world)
        write = moment.write(backend.snapshot(), world)

        def complete() -> None:
            self._copying = False
            try:
                self._store.complete(moment.step, write, meta=moment.meta, world=meeting)
            except BaseException:
                if isinstance(meeting, SideChannel):
                    meeting.fail()
                raise
            self._copy(moment.step)

        self._background.start(complete)

    def copy_stage(self) -> None:
        """Copy what a stage has left; where a copy is under way, the next one has it."""
        if self.copies is not None and self._background.ends_within(0):
            self._background.start(self._copy)

    def _copy(self, step: int | None = None) -> None:
        self._copying = True
        if self.copies is None:
            return
        if step is None:
            self.copies.stage()
        else:
            self.copies.checkpoint(step)

    def _wait_for_copy(self, copies: RunCopies, breaks_off: Callable[[], bool]) -> None:
        """Wait for what is under way; a copy that goes on for `COPY_WAIT` after it was broken off is left to itself."""
        waited, over = 0.0, False
        while not over:
            if breaks_off():
                copies.copies.stop.set()
            over = self._background.ends_within(_TICK)
            if self._copying and copies.copies.stop.is_set():
                waited += _TICK
            if not over and waited >= COPY_WAIT:
                copies.give_up()
                self._background, self.copies = Background(), None
                return

    def _copy_beside(self, step: int) -> None:
        if self.copies is not None and self.copies.newest != step:
            self._background.start(lambda: self._copy(step))
