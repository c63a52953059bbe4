"""Time: stages, steps, checkpoints, evaluation, signals. It knows no algorithm."""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from wavalign.engine.compile.plan import Plan, StagePlan
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.checkpointing import RunCheckpoints
from wavalign.engine.run.demands import check_before_training
from wavalign.engine.run.hand_over import leave_model
from wavalign.engine.run.inputs import check_read
from wavalign.engine.run.measuring import Measuring
from wavalign.engine.run.observers import Observer
from wavalign.engine.run.progress import is_complete
from wavalign.engine.run.rollout_log import RecordMaker
from wavalign.engine.run.run_log import RunLog
from wavalign.engine.run.stopping import StopSignals
from wavalign.engine.stages.fit_codec import fit_codec
from wavalign.engine.state.checkpoint import Checkpoint
from wavalign.engine.state.distributed import World
from wavalign.engine.state.files import read_json, storage_errors
from wavalign.engine.state.folder import RunFolder
from wavalign.engine.step.executor import StepExecutor
from wavalign.engine.step.stage import LiveStage
from wavalign.engine.step.state import StepResult


@final
class Trainer:
    """Runs a plan in a folder on one rank."""

    def __init__(self, plan: Plan, folder: RunFolder, world: World, observer: Observer) -> None:
        self.plan, self.folder, self.world, self.observer = plan, folder, world, observer
        self.builder = Builder(plan, world, observer.progress, observer.waiting)
        self.records = RecordMaker(folder.path)
        self.log = RunLog(folder, observer.message)
        self.checkpoints = RunCheckpoints(plan, folder, world, self.log)
        self.stop = StopSignals(self.checkpoints, say=observer.message)
        self.measuring = Measuring(
            self.checkpoints, log=self.log, records=self.records, stop=self.stop, observer=observer
        )

    def run(self, *, resume: bool) -> None:
        """From the beginning, or from the newest checkpoint."""
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
                for stage in self.plan.stages:
                    self._stage(stage, checkpoint)
                self._finish()
        finally:
            self.log.close()

    # --- stages -------------------------------------------------------------------------------------------------------

    def _stage(self, stage: StagePlan, checkpoint: Checkpoint | None) -> None:
        if is_complete(self.folder, stage):
            return
        start = _start_folder(self.plan, self.folder, stage)
        if stage.stage.type == "fit_codec":
            self.observer.stage(stage.name, 0)
            fit_codec(self.builder, stage, self._stage_folder(stage))
            self._complete(stage, reached=0, holds=None)
            return
        live = self.builder.stage(stage, start)
        for heading, feed in live.feeds.items():
            if note := feed.note(heading):
                self.observer.message(note)
        self.checkpoints.begin(stage)
        try:
            first = stage.first_step
            mine = checkpoint is not None and checkpoint.step >= first and checkpoint.meta["stage"] == stage.name
            done = self.checkpoints.restore(live, checkpoint) if mine and checkpoint is not None else 0
            if stage.steps:
                self._train(live, done)
                self._export(live, start)
            else:
                self._only_measure(live, start)
        finally:
            live.close()

    def _only_measure(self, live: LiveStage, start: Path | None) -> None:
        """A stage without steps; it leaves a model only where a later stage starts from it."""
        self.observer.stage(live.plan.name, 0)
        self.measuring.evaluate(live, 0)
        if live.plan != self.plan.stages[-1]:
            self._export(live, start)
        else:
            self._complete(live.plan, reached=0, holds=None)

    def _train(self, live: LiveStage, done: int) -> None:
        """Steps and evaluations; what ends them early leaves a checkpoint of the last complete step."""
        self.observer.stage(live.plan.name, live.plan.steps)
        executor = StepExecutor(live, done, self.observer.waiting)
        executor.before_update = self.checkpoints.meet
        self.checkpoints.take(live, done)
        try:
            self._steps(live, executor, done)
        except BaseException as error:
            self.stop.waits = True
            together = executor.together or self.measuring.together
            self.checkpoints.rescue(error, weights_of=executor.weights_of, together=together, say=self.observer.message)
            raise
        finally:
            self.stop.waits = False

    def _steps(self, live: LiveStage, executor: StepExecutor, done: int) -> None:
        stage = live.plan
        evaluation = stage.stage.evaluation
        if done == 0 and evaluation.at_start:
            self.measuring.evaluate(live, 0)
        self.measuring.between(live, done)  # what followed the checkpoint was cut off and is measured again
        watches = self.checkpoints.watches
        for index in range(done, stage.steps):
            if watches is not None and watches.is_over:
                break
            self.stop.waits = True
            result = executor.step(index)
            step = index + 1
            self._log_step(live, step, result)
            self.checkpoints.take(live, step)
            stop = self.world.any_true(self.stop.asked != 0)
            every = self.plan.runtime.checkpoint_every
            if stop or step == stage.steps or (every and step % every == 0):
                self.observer.waiting("writing a checkpoint", 0, 0)
                written = self.checkpoints.save()
                if stop:
                    raise self.stop.interrupted(str(written))
            self.stop.waits = False
            self.measuring.between(live, step)
        if self.world.any_true(self.stop.asked != 0):  # it came while the last checkpoint was written
            raise self.stop.interrupted()
        if self.checkpoints.reached < stage.steps:
            self.checkpoints.save()
            self.observer.message(f"stage {stage.name} ends early, after {self.checkpoints.reached} steps")
        elif evaluation.at_end:
            self.measuring.evaluate(live, stage.steps)

    def _export(self, live: LiveStage, start: Path | None) -> None:
        """Leave the stage's model in its original layout, whole or not at all."""
        self.folder.check_held()  # what is gone must not half come back
        folder, reached = self._stage_folder(live.plan), self.checkpoints.reached
        best = self.checkpoints.watches.best if self.checkpoints.watches is not None else None
        step = self.checkpoints.load_best(live)
        holds: dict[str, Any] = {"step": step}
        if best is not None and best.step:
            holds |= {"metric": best.watched.metric, "mode": best.watched.mode, "value": best.best}
        leave_model(live, folder / "model")
        if self.world.is_first and start is not None and (start / "codec.safetensors").exists():
            with storage_errors(str(folder)):
                shutil.copy2(start / "codec.safetensors", folder / "codec.safetensors")
        self._complete(live.plan, reached=reached, holds=holds)

    def _complete(self, stage: StagePlan, *, reached: int, holds: Mapping[str, Any] | None) -> None:
        """Mark a stage complete: what was planned, the steps done, and which weights its model holds."""
        self.world.barrier()
        if self.world.is_first:
            mark = {"stage": stage.name, "planned": stage.steps, "steps": reached, "model": holds}
            mark["logs"] = self._safe_position()
            with storage_errors(str(self.folder.stages)):
                self.folder.stages.mkdir(exist_ok=True)
                self._stage_folder(stage).mkdir(exist_ok=True)
            self.folder.write_json(self.folder.complete(stage.name), mark)
        self.world.barrier()

    def _stage_folder(self, stage: StagePlan) -> Path:
        return self.folder.stages / stage.name

    def _finish(self) -> None:
        if not self.world.is_first:
            return
        left = [stage for stage in self.plan.stages if (self._stage_folder(stage) / "model").exists()]
        if left:
            with storage_errors(str(self.folder.model)):
                shutil.copytree(self._stage_folder(left[-1]) / "model", self.folder.model, dirs_exist_ok=True)
            if self.plan.runtime.keep_best is not None:
                self.folder.write_json(self.folder.best, read_json(self.folder.complete(left[-1].name))["model"])

    # --- what is written ----------------------------------------------------------------------------------------------

    def _log_step(self, live: LiveStage, step: int, result: StepResult) -> None:
        number = live.plan.first_step + step
        self.log.metrics(result.metrics, stage=live.plan.name, step=number, split="train")
        every = self.plan.runtime.log_rollouts_every
        if self.log.is_open and result.groups and every and (step == 1 or step % every == 0):
            self.log.rollouts(
                self.records.lines(
                    result.groups,
                    stage=live.plan.name,
                    step=number,
                    split="train",
                    scores=result.scores,
                    advantages=result.advantages,
                )
            )
        self.observer.step(result.metrics, step)
        for note in result.notes:
            self.observer.message(f"step {step}: {note}")
        if result.groups:
            group = result.groups[0]
            reward = float(result.scores.total[0, 0]) if result.scores is not None else math.nan
            question = next((turn.text for turn in group.dialogue.messages if turn.role == "user"), "")
            self.observer.rollout(question, group.rollouts[0].answer.text, None if math.isnan(reward) else reward)

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


def _start_folder(plan: Plan, folder: RunFolder, stage: StagePlan) -> Path | None:
    """Folder of the stage this one starts from."""
    name = stage.stage.start
    if name is None:
        earlier = [each.name for each in plan.stages]
        index = earlier.index(stage.name)
        name = earlier[index - 1] if index else None
    return None if name is None else folder.stages / name
