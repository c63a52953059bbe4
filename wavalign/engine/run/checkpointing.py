"""A run's checkpoints: the moments between steps, written when they are due and before a run that fails ends.

A checkpoint is a moment (everything but the weights after a step: gate, places in the data, random states, where the
logs end) and the weights of that step. The moment is taken at the end of every step, so that a failure in the middle
of the next one, before the weights moved, still leaves the checkpoint that could have been written before it: resumed,
the run repeats the step as if nothing had happened.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from wavalign.engine.compile.plan import Plan, StagePlan
from wavalign.engine.run.checkpoint_writing import CheckpointWriter, Moment
from wavalign.engine.run.run_log import RunLog
from wavalign.engine.run.watching import Watches, best_step
from wavalign.engine.state.checkpoint import Checkpoint, CheckpointStore
from wavalign.engine.state.distributed import World
from wavalign.engine.state.files import read_json
from wavalign.engine.state.folder import RunFolder
from wavalign.engine.state.rng import restore_rng, rng_state, seed_rng
from wavalign.engine.state.seeds import derive
from wavalign.engine.step.ahead import Kept
from wavalign.engine.step.stage import LiveStage
from wavalign.errors import CheckpointError, Interrupted, ResumeError, WavAlignError


@final
class RunCheckpoints:
    """The checkpoints of a run on one rank; every rank calls every method alike, but for `rescue`."""

    def __init__(self, plan: Plan, folder: RunFolder, world: World, log: RunLog) -> None:
        self.plan, self.folder, self.world, self._log = plan, folder, world, log
        self.store = CheckpointStore(
            folder.checkpoints, keep=plan.runtime.keep_checkpoints, every=plan.runtime.keep_every
        )
        self.writer = CheckpointWriter(self.store, world, log, beside=plan.runtime.async_checkpoints)
        self._moment: Moment | None = None
        self._met: list[Any] | None = None
        self._in_flight: Kept | None = None
        """What the present step leaves to the next."""
        self.watches: Watches | None = None
        """What the present stage watches."""
        self.inputs = ""
        """Sum of what the run reads; only the first rank knows it, and writes it."""

    def take(self, live: LiveStage, stage_step: int) -> None:
        """Remember the moment after `stage_step` steps of a stage, once they are logged."""
        meta = {
            "stage": live.plan.name,
            "stage_step": stage_step,
            "fingerprint": self.plan.fingerprint,
            "inputs": self.inputs,
            "remembered": live.remembered.state_dict(),
            "rng": self._random_states(),
            "watches": self.watches.state_dict() if self.watches is not None else {},
            "logs": self._log.position(),
        }
        self._moment = Moment(live, stage_step, meta, self._in_flight)
        self._in_flight = None

    def meet(self, live: LiveStage) -> None:
        """Learn the random states of all ranks before a step moves the weights; from here to its end nothing is drawn.

        So the moment after the step needs no other rank, and one that is lost meanwhile costs the step that it was in.
        """
        self._met = self.world.gather(rng_state())
        self._in_flight = None if live.in_flight is None else live.in_flight.kept(self.world)

    def _random_states(self) -> list[Any]:
        met, self._met = self._met, None
        if met is None:
            return self.world.gather(rng_state())
        return [*met[: self.world.rank], rng_state(), *met[self.world.rank + 1 :]]

    @property
    def reached(self) -> int:
        """Steps of the present stage that are done."""
        return self._moment.stage_step if self._moment is not None else 0

    def begin(self, stage: StagePlan) -> None:
        """A stage begins, from its first step or from a checkpoint that is restored next."""
        self.watches, self.store.protected = Watches(stage, self.plan.runtime), None

    def keep_best(self) -> None:
        """The moment's weights are the best so far: keep their checkpoint until there are better ones."""
        assert self._moment is not None
        self.writer.settle()  # an older one that is written meanwhile must not take the best so far for forgotten
        self.store.protected = self._moment.step
        self.save()

    def load_best(self, live: LiveStage) -> int:
        """Give the network its best weights at a stage's end, where they are watched; gives the step they are of."""
        watch, reached = self.watches.best if self.watches is not None else None, self.reached
        self._moment = None  # from here on the weights are of another moment
        if watch is None or watch.step in (0, reached):
            return live.plan.first_step + reached
        step = live.plan.first_step + watch.step
        self.writer.settle()
        self.store.load(self.store.at(step), live.backend.load, world=self.world)
        return step

    def save(self, *, now: bool = False) -> Path:
        """Write the checkpoint of the moment, unless it is there; gives its folder, which `now` waits for."""
        assert self._moment is not None
        return self._save(self._moment, self.world, now=now)

    def restore(self, live: LiveStage, checkpoint: Checkpoint) -> int:
        """Bring a stage to a checkpoint of it; gives the steps of the stage that it has seen."""
        self.store.load(checkpoint, live.backend.load, world=self.world)
        meta = checkpoint.meta
        live.remembered.load_state_dict(meta["remembered"])
        if live.in_flight is not None:
            self._in_flight = live.in_flight.restore(checkpoint.folder, self.world)
        if self.watches is not None:
            self.watches.load_state_dict(meta["watches"])
            self.store.protected = self._protected(checkpoint)
        if self.world.is_first:
            self.store.prune()
        self._restore_random(meta["rng"], checkpoint.step)
        return int(meta["stage_step"])

    def _protected(self, checkpoint: Checkpoint) -> int | None:
        """The step of the best weights so far; raises CheckpointError where they are not here any more."""
        best = best_step(checkpoint)
        if best is None or best in self.store.steps():
            return best
        raise CheckpointError(
            f"the best weights before step {checkpoint.step} are those of step {best}, and {self.folder.checkpoints} "
            f"has no checkpoint of it: what `runtime.keep_best` asks for could not be left at the end",
            hint="go on from the newest checkpoint, or from one whose best is still kept",
        )

    def _restore_random(self, states: Sequence[Mapping[str, Any]], step: int) -> None:
        """That of this rank's number; a further rank, where there were fewer, begins a new one by the run's seed."""
        rank = self.world.rank
        if rank < len(states):
            restore_rng(states[rank])
        else:
            seed_rng(derive(self.plan.seed, "further process", step, rank))

    def latest(self) -> Checkpoint | None:
        """The checkpoint to go on from; raises ResumeError when it is of another plan."""
        checkpoint = self.store.latest()
        if checkpoint is None:
            return None
        theirs = checkpoint.meta["fingerprint"]
        earlier = read_json(self.folder.plan).get("earlier", []) if self.folder.plan.exists() else []
        if theirs not in (self.plan.fingerprint, *earlier):
            raise ResumeError(
                f"{checkpoint.folder} was written by plan {theirs}, and this is plan {self.plan.fingerprint}",
                hint="`wavalign plan RECIPE --diff OLD_RECIPE` shows what differs; start a new run for a new plan",
            )
        return checkpoint

    def newest(self) -> str:
        """The newest checkpoint's folder, empty when there is none."""
        steps = self.store.steps()
        return str(self.folder.checkpoints / f"step-{steps[-1]}") if steps else ""

    def lost(self) -> int:
        """Steps that are logged and in no checkpoint."""
        steps = self.store.steps()
        done = self._moment.step if self._moment is not None else 0
        return max(0, done - (steps[-1] if steps else 0))

    def survives(self) -> bool:
        """Whether the last complete step can be written now, in the middle of the next one, by whoever is first."""
        moment = self._moment
        if moment is None or not moment.stage_step or moment.live.clock.weights_of != moment.stage_step:
            return False
        return self.world.size == 1 or moment.live.backend.saves_alone

    def rescue(
        self, error: BaseException, *, weights_of: int | None, together: bool, say: Callable[[str], None]
    ) -> None:
        """Write the checkpoint of the last complete step before `error` ends the run, and tell where it is.

        `weights_of` are the steps that the weights have seen, None while they change; `together` says that every rank
        came here. Otherwise the first rank writes alone, where its backend can. What cannot be written is told, and
        never takes the place of `error`.
        """
        moment = self._moment
        if isinstance(error, Interrupted) and error.at_once:
            return
        unwritten = self.writer.finish(alone=not together and self.world.size > 1)
        if unwritten and unwritten not in str(error):
            say(f"the checkpoint that was being written is lost: {unwritten}")
        moved = moment is not None and weights_of != moment.stage_step
        if moved:  # of what they are now no line was logged: no resume could go on as if nothing had happened
            self._tell(error, self._last_good(), say)
        if moment is None or not moment.stage_step or moved:
            return
        alone = not together and self.world.size > 1
        if alone and not moment.live.backend.saves_alone:
            kept = f"no checkpoint of step {moment.step} was written, for DeepSpeed needs every process for one"
            self._tell(error, f"{kept}; {self._last_good()}", say)
            return
        if alone and not self.world.is_first:
            return
        try:
            written = self._save(moment, self.world.alone() if alone else self.world, now=True)
        except WavAlignError as problem:
            say(f"no checkpoint of step {moment.step} could be written: {problem.message}")
            return
        if isinstance(error, Interrupted):
            error.checkpoint, error.lost = str(written), 0
        else:
            self._tell(error, f"the checkpoint of step {moment.step} was written: --resume goes on from there", say)

    def _tell(self, error: BaseException, kept: str, say: Callable[[str], None]) -> None:
        """What is left, as the last word of the error, or apart from one that has no hint."""
        if isinstance(error, WavAlignError):
            error.hint = f"{error.hint}; {kept}" if error.hint else kept
        elif not isinstance(error, Interrupted):
            say(kept)

    def _last_good(self) -> str:
        """Where a run may go on whose weights are lost."""
        steps = self.store.steps()
        if not steps:
            return "no checkpoint was written before"
        return f"the checkpoint of step {steps[-1]} is whole: --resume repeats the steps from there"

    def _save(self, moment: Moment, world: World, *, now: bool) -> Path:
        self.writer.write(moment, world, now=now)
        return self.folder.checkpoints / f"step-{moment.step}"
