"""Time: stages, steps, checkpoints, evaluation, signals. It knows no algorithm."""

import json
import math
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

from wavalign.engine.compile.plan import Plan, StagePlan
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.callbacks import Observer
from wavalign.engine.run.codec_fitting import fit_codec
from wavalign.engine.run.executor import StepExecutor, StepResult
from wavalign.engine.run.live import LiveStage
from wavalign.engine.run.records import RecordMaker
from wavalign.engine.run.stage_model import leave_model
from wavalign.engine.run.stopping import StopSignals
from wavalign.engine.state.checkpoint import Checkpoint, CheckpointStore
from wavalign.engine.state.distributed import World
from wavalign.engine.state.faults import keep_trace
from wavalign.engine.state.files import storage_errors
from wavalign.engine.state.folder import RunFolder
from wavalign.engine.state.metrics import METRICS_NULLABLE, ROLLOUTS_NULLABLE, MetricsWriter
from wavalign.engine.state.rng import restore_rng, rng_state
from wavalign.errors import ResumeError, WavAlignError
from wavalign.plugins.api import Tracker


@final
class Trainer:
    """Runs a plan in a folder on one rank."""

    def __init__(self, plan: Plan, folder: RunFolder, world: World, observer: Observer) -> None:
        self.plan, self.folder, self.world, self.observer = plan, folder, world, observer
        self.builder = Builder(plan, world, observer.progress)
        self.store = CheckpointStore(folder.checkpoints, keep=plan.runtime.keep_checkpoints)
        self.records = RecordMaker(folder.path)
        self.metrics: MetricsWriter | None = None
        self.rollouts: MetricsWriter | None = None
        self.trackers: list[Tracker] = []
        self.stop = StopSignals(newest=self._newest, say=observer.message)

    def run(self, *, resume: bool) -> None:
        """From the beginning, or from the newest checkpoint."""
        checkpoint = self._latest() if resume else None
        self._open(checkpoint)
        try:
            with self.stop.listening():
                for stage in self.plan.stages:
                    self._stage(stage, checkpoint)
                self._finish()
        finally:
            self._close()

    # --- stages -------------------------------------------------------------------------------------------------------

    def _stage(self, stage: StagePlan, checkpoint: Checkpoint | None) -> None:
        if self._complete_path(stage).exists():
            return
        start = self._start(stage)
        if stage.stage.type == "fit_codec":
            self.observer.stage(stage.name, 0)
            fit_codec(self.builder, stage, self._stage_folder(stage))
            self._complete(stage)
            return
        live = self.builder.stage(stage, start)
        try:
            first = stage.first_step
            mine = checkpoint is not None and checkpoint.step >= first and checkpoint.meta["stage"] == stage.name
            done = self._restore(live, checkpoint) if mine and checkpoint is not None else 0
            self._train(live, done)
            self._export(live, start)
        finally:
            live.close()

    def _train(self, live: LiveStage, done: int) -> None:
        stage = live.plan
        self.observer.stage(stage.name, stage.steps)
        executor = StepExecutor(live)
        evaluation = stage.stage.evaluation
        if done == 0 and evaluation.at_start:
            self._evaluate(live, 0)
        self._evaluate_between(live, done)  # what followed the checkpoint was cut off and is measured again
        for index in range(done, stage.steps):
            self.stop.waits = True
            result = executor.step(index)
            step = index + 1
            self._log_step(live, step, result)
            stop = self.world.any_true(self.stop.asked != 0)
            every = self.plan.runtime.checkpoint_every
            if stop or step == stage.steps or (every and step % every == 0):
                written = self._checkpoint(live, step)
                if stop:
                    raise self.stop.interrupted(str(written))
            self.stop.waits = False
            self._evaluate_between(live, step)
        if self.world.any_true(self.stop.asked != 0):  # it came while the last checkpoint was written
            raise self.stop.interrupted()
        if evaluation.at_end:
            self._evaluate(live, stage.steps)

    def _evaluate_between(self, live: LiveStage, step: int) -> None:
        """Measure where `evaluation.every` says so; the start and the end have their own word."""
        every = live.plan.stage.evaluation.every
        if every and 0 < step < live.plan.steps and step % every == 0:
            self._evaluate(live, step)

    def _start(self, stage: StagePlan) -> Path | None:
        """Folder of the stage this one starts from."""
        name = stage.stage.start
        if name is None:
            earlier = [each.name for each in self.plan.stages]
            index = earlier.index(stage.name)
            name = earlier[index - 1] if index else None
        return None if name is None else self.folder.stages / name

    def _export(self, live: LiveStage, start: Path | None) -> None:
        """Leave the stage's model in its original layout, whole or not at all."""
        folder = self._stage_folder(live.plan)
        leave_model(live, folder / "model")
        if self.world.is_first and start is not None and (start / "codec.safetensors").exists():
            with storage_errors(str(folder)):
                shutil.copy2(start / "codec.safetensors", folder / "codec.safetensors")
        self._complete(live.plan)

    def _complete(self, stage: StagePlan) -> None:
        self.world.barrier()
        if self.world.is_first:
            self.folder.write_json(self._complete_path(stage), {"stage": stage.name, **self._offsets()})
        self.world.barrier()

    def _complete_path(self, stage: StagePlan) -> Path:
        return self._stage_folder(stage) / "complete.json"

    def _stage_folder(self, stage: StagePlan) -> Path:
        return self.folder.stages / stage.name

    def _finish(self) -> None:
        if not self.world.is_first:
            return
        last = self._stage_folder(self.plan.stages[-1])
        if (last / "model").exists():
            with storage_errors(str(self.folder.model)):
                shutil.copytree(last / "model", self.folder.model, dirs_exist_ok=True)
        self.folder.finish(steps=self.plan.total_steps)

    # --- what is written ----------------------------------------------------------------------------------------------

    def _log_step(self, live: LiveStage, step: int, result: StepResult) -> None:
        number = live.plan.first_step + step
        self._write(result.metrics, stage=live.plan.name, step=number, split="train")
        every = self.plan.runtime.log_rollouts_every
        if self.rollouts is not None and result.groups and every and (step == 1 or step % every == 0):
            lines = self.records.lines(
                result.groups,
                stage=live.plan.name,
                step=number,
                split="train",
                scores=result.scores,
                advantages=result.advantages,
            )
            for line in lines:
                self.rollouts.write(line)
        self.observer.step(result.metrics, step)
        if result.groups:
            group = result.groups[0]
            reward = float(result.scores.total[0, 0]) if result.scores is not None else math.nan
            question = next((turn.text for turn in group.dialogue.messages if turn.role == "user"), "")
            self.observer.rollout(question, group.rollouts[0].answer.text, None if math.isnan(reward) else reward)

    def _evaluate(self, live: LiveStage, step: int) -> None:
        """Measure on the first rank, while the others wait; every rank opens the parameters."""
        number = live.plan.first_step + step
        when = "start" if step == 0 else "end" if step == live.plan.steps else "middle"
        with live.backend.full_parameters():
            if self.world.is_first and live.evaluator.metrics:
                for result in live.evaluator.run(live.backend.policy, self.observer.progress):
                    self._write(result.values, stage=live.plan.name, step=number, split=result.split)
                    for line in self.records.lines(
                        result.samples, stage=live.plan.name, step=number, split=result.split
                    ):
                        assert self.rollouts is not None
                        self.rollouts.write(line)
                    self.observer.evaluation(result.split, result.values, when)
        self.world.barrier()

    def _write(self, values: Mapping[str, float], *, stage: str, step: int, split: str) -> None:
        if self.metrics is None:
            return
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.metrics.write({"stage": stage, "step": step, "split": split, "time": time, **values})
        for tracker in list(self.trackers):
            try:
                tracker.log(dict(values), step=step, split=split)
            except WavAlignError as error:  # of whatever it raised the guard has made one
                self.trackers.remove(tracker)
                self._switched_off(error)

    def _switched_off(self, error: WavAlignError) -> None:
        """Say that a tracker failed; a tracker never stops a run."""
        kept = keep_trace(error, self.folder.faults)
        where = f"; the traceback is in {kept}" if kept else ""
        self.observer.message(f"{error.message}; it was switched off{where}")

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def _checkpoint(self, live: LiveStage, step: int) -> Path:
        state: dict[str, Any] = {
            "stage": live.plan.name,
            "stage_step": step,
            "fingerprint": self.plan.fingerprint,
            "gate": live.gate.state_dict() if live.gate is not None else None,
            "feeds": {name: feed.state_dict() for name, feed in live.feeds.items()},
            "rng": self.world.gather(rng_state()),
            **self._offsets(),
        }
        return self.store.save(live.plan.first_step + step, live.backend.save, meta=state, world=self.world)

    def _offsets(self) -> dict[str, int]:
        """Where the lines that are safe on the disk end."""
        offsets = {}
        for name, writer in (("metrics", self.metrics), ("rollouts", self.rollouts)):
            if writer is not None:
                writer.sync()
                offsets[f"{name}_offset"] = writer.offset
        return offsets

    def _restore(self, live: LiveStage, checkpoint: Checkpoint) -> int:
        self.store.load(checkpoint, live.backend.load, world=self.world)
        meta = checkpoint.meta
        if live.gate is not None:
            live.gate.load_state_dict(meta["gate"])
        for name, feed in live.feeds.items():
            feed.load_state_dict(meta["feeds"][name])
        restore_rng(meta["rng"][self.world.rank])
        return int(meta["stage_step"])

    def _latest(self) -> Checkpoint | None:
        checkpoint = self.store.latest()
        if checkpoint is None:
            return None
        theirs = checkpoint.meta["fingerprint"]
        if theirs != self.plan.fingerprint:
            raise ResumeError(
                f"{checkpoint.folder} was written by plan {theirs}, and this is plan {self.plan.fingerprint}",
                hint="`wavalign plan RECIPE --diff OLD_RECIPE` shows what differs; start a new run for a new plan",
            )
        return checkpoint

    # --- opening and closing ------------------------------------------------------------------------------------------

    def _open(self, checkpoint: Checkpoint | None) -> None:
        if not self.world.is_first:
            return
        self.metrics = MetricsWriter(self.folder.metrics, nullable=METRICS_NULLABLE)
        self.rollouts = MetricsWriter(self.folder.rollouts, nullable=ROLLOUTS_NULLABLE)
        # A complete stage is not run again, and its last lines stand behind its last checkpoint.
        paths = [self._complete_path(stage) for stage in self.plan.stages]
        kept = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
        kept += [checkpoint.meta] if checkpoint is not None else []
        for name, writer in (("metrics", self.metrics), ("rollouts", self.rollouts)):
            writer.rewind(max((int(each[f"{name}_offset"]) for each in kept), default=0))
        self.trackers = self.builder.trackers(self.folder.path)

    def _close(self) -> None:
        for tracker in self.trackers:
            try:
                tracker.close()
            except WavAlignError as error:  # as in `_write`
                self._switched_off(error)
        for writer in (self.metrics, self.rollouts):
            if writer is not None:
                writer.close()

    def _newest(self) -> str:
        """The newest checkpoint's folder, empty when there is none."""
        steps = self.store.steps()
        return str(self.folder.checkpoints / f"step-{steps[-1]}") if steps else ""
