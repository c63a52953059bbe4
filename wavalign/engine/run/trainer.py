"""Time: stages, folders, resumes, signals. It knows no algorithm, and of stages no kind."""

import shutil
from pathlib import Path
from typing import Any, final

from wavalign.engine.compile.components import reward_links, written_by_stages
from wavalign.engine.compile.plan import Plan, StagePlan
from wavalign.engine.compile.stage_links import start_in_plan
from wavalign.engine.run.answering import answerer, answering
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.checkpointing import RunCheckpoints
from wavalign.engine.run.clock import StepClock
from wavalign.engine.run.copying import RunCopies
from wavalign.engine.run.demands import check_before_training, check_made
from wavalign.engine.run.hand_over import leave_model
from wavalign.engine.run.inputs import check_read
from wavalign.engine.run.measuring import Measuring
from wavalign.engine.run.observers import Observer
from wavalign.engine.run.pair_evaluation import pair_evaluator
from wavalign.engine.run.pairing import pairing
from wavalign.engine.run.progress import is_complete
from wavalign.engine.run.reward_artifact import REWARD_MODEL, leave_reward_model
from wavalign.engine.run.rollout_log import RecordMaker
from wavalign.engine.run.rounds import Rounds, before, last_model
from wavalign.engine.run.run_log import RunLog
from wavalign.engine.run.stopping import StopSignals
from wavalign.engine.stages.answering import Answering
from wavalign.engine.stages.dataset import DATA
from wavalign.engine.stages.pairing import Pairing
from wavalign.engine.stages.table import RUN
from wavalign.engine.state.checkpoint import Checkpoint
from wavalign.engine.state.distributed import World
from wavalign.engine.state.files import read_json, storage_errors
from wavalign.engine.state.folder import RunFolder
from wavalign.engine.state.timeline import Timeline
from wavalign.engine.step.stage import LiveStage
from wavalign.storage.cache import uses_said


@final
class Trainer:
    """Runs a plan in a folder on one rank."""

    def __init__(self, plan: Plan, folder: RunFolder, world: World, observer: Observer) -> None:
        self.plan, self.folder, self.world, self.observer = plan, folder, world, observer
        self.builder = Builder(plan, world, observer.progress, observer.waiting)
        self.builder.run_folder = folder.path
        self.records = RecordMaker(folder.path)
        self.log = RunLog(folder, observer.message)
        self.checkpoints = RunCheckpoints(plan, folder, world, self.log)
        if world.is_first and plan.runtime.checkpoint_store is not None:
            self.checkpoints.writer.copies = RunCopies(
                folder, self.checkpoints.store, plan.runtime.checkpoint_store, observer.message
            )
        self.checkpoints.writer.hurried = lambda: self.stop.asked != 0
        self.stop = StopSignals(self.checkpoints, say=observer.message)
        measuring = Measuring(self.checkpoints, log=self.log, records=self.records, stop=self.stop, observer=observer)
        self.clock = StepClock(self.builder, measuring, log=self.log, records=self.records, observer=observer)
        self.timeline = Timeline(folder.path, rank=world.rank, every=plan.runtime.trace_every)
        self.rounds = Rounds(plan, folder, world, observer.message)

    def run(self, *, resume: bool) -> None:
        """From the beginning, or from the newest checkpoint."""
        copies = self.checkpoints.writer.copies
        if copies is not None:
            copies.begin()
        checkpoint = self.checkpoints.latest() if resume else None
        if resume and checkpoint is None and not all(is_complete(self.folder, stage) for stage in self.plan.stages):
            self.observer.message("no checkpoint was written before: what is not complete starts at its first step")
        try:
            wanted = None if checkpoint is None else str(checkpoint.meta["inputs"])
            self.checkpoints.inputs = check_read(self.builder, self.folder, wanted)
            if self.world.is_first:
                self._open_log(checkpoint, resume=resume)
            with self.stop.listening():
                check_before_training(self.builder, [x for x in self.plan.stages if not is_complete(self.folder, x)])
                self.clock.resumed = checkpoint
                for stage in self.plan.stages:
                    self._stage(stage)
                self._finish()
                if copies is not None:
                    self.checkpoints.writer.settle()
        finally:
            self.checkpoints.writer.give_up()
            self.log.close()

    def copy_rest(self) -> None:
        """Copy to the store what a run leaves behind its last checkpoint, where it has one."""
        copies = self.checkpoints.writer.copies
        if copies is not None and copies.began:
            self.checkpoints.writer.wait_for_copy(self.observer.message)
            copies.everything()

    # --- stages -------------------------------------------------------------------------------------------------------

    def _stage(self, stage: StagePlan) -> None:
        if is_complete(self.folder, stage):
            return
        if self.rounds.skips(stage):
            self.complete(stage, skipped=True)
            return
        self.prepare(stage)
        check_made(self.builder, stage)
        RUN[stage.stage.type](stage, self)

    def prepare(self, stage: StagePlan) -> None:
        """Tell the builder what stages before this one have left."""
        self.builder.made = {name: self.rounds.folder_of(name, stage) / DATA for name in written_by_stages(stage)}
        self.builder.reward_models = {
            name: self.rounds.folder_of(name, stage) / REWARD_MODEL for name in reward_links(stage)
        }

    def start_folder(self, stage: StagePlan) -> Path | None:
        """Folder of the stage that it starts from."""
        name = start_in_plan(self.plan.stages, stage)
        return None if name is None else self.rounds.folder_of(name, stage)

    def stage_folder(self, stage: StagePlan) -> Path:
        """The stage's own."""
        return self.folder.stages / stage.name

    def answering(self, stage: StagePlan) -> Answering:
        """Its policy and the prompts it answers."""
        return answering(self.builder, stage, self.start_folder(stage))

    def pairing(self, stage: StagePlan) -> Pairing:
        """The answers that it pairs, and what decides."""
        earlier = [self.folder.stages / name for name in before(stage)]
        return pairing(self.builder, stage, self.start_folder(stage), earlier)

    def measure(self, stage: StagePlan) -> None:
        """Measure the held-out splits with what the stage starts from, and log it."""
        self.observer.waiting("building the model", 0, 0)
        policy, roller = answerer(self.builder, stage, self.start_folder(stage))
        evaluator = self.builder.evaluator(stage, roller)
        try:
            self.clock.measuring.measure(stage, policy, evaluator)
        finally:
            evaluator.close()

    def export(self, live: LiveStage) -> None:
        """Leave the stage's model in its original layout, whole or not at all."""
        self.folder.check_held()  # what is gone must not half come back
        folder, start = self.stage_folder(live.plan), self.start_folder(live.plan)
        reached = self.checkpoints.reached
        best = self.checkpoints.watches.best if self.checkpoints.watches is not None else None
        step = self.checkpoints.load_best(live)
        holds: dict[str, Any] = {"step": step}
        if best is not None and best.step:
            holds |= {"metric": best.watched.metric, "mode": best.watched.mode, "value": best.best}
        if live.plan.kind.leaves == "reward_model":
            evaluator, reached_by = pair_evaluator(self.builder, live), step - live.plan.first_step
            leave_reward_model(live, evaluator, folder / REWARD_MODEL, recipe=self.plan.name, steps=reached_by)
        else:
            leave_model(live, folder / "model")
        if self.world.is_first and start is not None and (start / "codec.safetensors").exists():
            with storage_errors(str(folder)):
                shutil.copy2(start / "codec.safetensors", folder / "codec.safetensors")
        self.complete(live.plan, reached=reached, holds=holds)

    def complete(
        self, stage: StagePlan, *, reached: int = 0, holds: dict[str, Any] | None = None, skipped: bool = False
    ) -> None:
        """Mark a stage complete: what was planned, the steps done, and which weights its model holds."""
        self.world.barrier()
        if self.world.is_first:
            mark: dict[str, Any] = {"stage": stage.name, "planned": stage.steps, "steps": reached, "model": holds}
            if skipped:
                mark["skipped"] = True
            mark["logs"] = self._safe_position()
            with storage_errors(str(self.folder.stages)):
                self.folder.stages.mkdir(exist_ok=True)
                self.stage_folder(stage).mkdir(exist_ok=True)
            self.folder.write_json(self.folder.complete(stage.name), mark)
            self.checkpoints.writer.copy_stage()
        self.world.barrier()

    def _finish(self) -> None:
        if not self.world.is_first:
            return
        for line in uses_said():
            self.observer.message(line)
        last = last_model(self.plan, self.folder)
        if last is not None:
            with storage_errors(str(self.folder.model)):
                shutil.copytree(self.stage_folder(last) / "model", self.folder.model, dirs_exist_ok=True)
            if self.plan.runtime.keep_best is not None:
                self.folder.write_json(self.folder.best, read_json(self.folder.complete(last.name))["model"])

    # --- the log ------------------------------------------------------------------------------------------------------

    def _open_log(self, checkpoint: Checkpoint | None, *, resume: bool) -> None:
        # A complete stage is not run again, and its last lines stand behind its last checkpoint.
        complete = [stage for stage in self.plan.stages if is_complete(self.folder, stage)]
        kept = [read_json(self.folder.complete(stage.name))["logs"] for stage in complete]
        kept += [checkpoint.meta["logs"]] if checkpoint is not None else []
        self.log.open(lambda: self.builder.trackers(self.folder.path), kept, resume=resume)

    def _safe_position(self) -> dict[str, dict[str, int | str]]:
        self.log.sync()
        return self.log.position()
