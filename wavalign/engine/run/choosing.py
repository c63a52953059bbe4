"""Which model is meant: a recipe's, a run's at some stage or checkpoint, or one in a folder of its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from torch import nn

from wavalign.engine.backends.training_state import load_weights
from wavalign.engine.compile.plan import Plan, StagePlan
from wavalign.engine.compile.stage_links import codec_before, start_in_plan
from wavalign.engine.run.progress import newest_checkpoint, planned
from wavalign.engine.run.rounds import Rounds, last_model
from wavalign.engine.state.checkpoint import Checkpoint, CheckpointStore
from wavalign.engine.state.distributed import World
from wavalign.engine.state.folder import RunFolder
from wavalign.errors import UsageError


@final
@dataclass(frozen=True, slots=True)
class Chosen:
    """Which model is meant, before anything of it is loaded."""

    plan: Plan
    stage: StagePlan
    """Its sections say architecture, codec and how answers are drawn."""
    start: Path | None
    """Folder of the stage that left the weights; None for what `model` names."""
    checkpoint: Checkpoint | None
    """Of a run, whose weights come over those of `start`."""
    name: str
    """What answers are filed under."""
    says: str
    """In words."""

    def restore(self, policy: nn.Module, world: World) -> None:
        """Give a whole `policy` the weights of the checkpoint, where one is meant."""
        if self.checkpoint is not None:
            store = CheckpointStore(self.checkpoint.folder.parent, keep=1)
            store.load(self.checkpoint, lambda folder: load_weights(policy, folder), world=world)


def from_plan(plan: Plan, stage: str | None) -> Chosen:
    """The model that a recipe's stage starts from, as its `model` section says."""
    chosen = _stage(plan, stage)
    if codec_before(plan.stages, chosen) and not _codec_given(chosen):
        raise UsageError(
            f"the codec of stage {chosen.name} is fitted by an earlier stage, so the recipe alone has none",
            hint="name the folder of a run of it, or give model.codec.checkpoint by --set",
        )
    model = chosen.stage.model
    what = model.checkpoint or f"random weights of preset {model.preset}"
    return Chosen(plan, chosen, None, None, plan.name, f"recipe {plan.name}: {what}")


def from_folder(place: Path, recipe: Plan | None, *, stage: str | None, at: str | None) -> Chosen:
    """The model of a run's, a stage's, a checkpoint's or a model's folder.

    `recipe` says what a model's folder cannot; `at` names a checkpoint of a run. Raises UsageError.
    """
    if _run_of(place) is None:
        return _from_model(place, recipe, stage, at)
    if recipe is not None:
        raise UsageError("--recipe goes with a model's folder: a run knows its own", hint="leave it out")
    return from_run(place, stage=stage, at=at)


def from_run(place: Path, *, stage: str | None = None, at: str | None = None) -> Chosen:
    """The model of a run's, a stage's or a checkpoint's folder; raises UsageError."""
    run = _run_of(place)
    if run is None:
        hint = "give the folder that holds plan.json, or one of its stages or checkpoints"
        raise UsageError(f"{place} is no run's folder", hint=hint)
    folder = RunFolder(run)
    if at is None and place.absolute().parent.name == "checkpoints":
        at = place.name
    if at is None:
        return _from_stage(folder, stage or _stage_of(place.absolute()))
    if stage is not None:
        raise UsageError("--stage and --at exclude one another: a checkpoint is of one stage", hint="leave one out")
    return _from_checkpoint(folder, at)


def _run_of(place: Path) -> Path | None:
    """The run that a folder is, or is a part of: stages/NAME, stages/NAME/model, checkpoints/step-N, model."""
    whole = place.absolute()
    for run in (whole, *list(whole.parents)[:3]):
        if (run / "plan.json").is_file():
            match whole.relative_to(run).parts:
                case () | ("model",) | ("checkpoints", _) | ("stages", _) | ("stages", _, "model"):
                    return run
    return None


def _stage_of(place: Path) -> str | None:
    """The stage that a folder inside a run is of."""
    found = (each.name for each in (place, place.parent) if each.parent.name == "stages")
    return next(found, None)


def _from_stage(folder: RunFolder, name: str | None) -> Chosen:
    """What a stage left; without a name that of the run."""
    plan = planned(folder)
    trained = {stage.name: stage for stage in plan.stages if stage.kind.leaves == "weights"}
    ready = [each for each in trained if folder.complete(each).is_file()]
    if name is None and len(ready) == len(trained):
        last = last_model(plan, folder)
        name = last.name if last is not None else None
    name = name or next(reversed(trained), None)
    if name is None or name not in trained:
        raise UsageError(f"the run has no train stage {name!r}", hint=f"one of {', '.join(trained) or 'none'}")
    if name not in ready:
        hint = f"--stage {ready[-1]} is complete" if ready else "let the run go on with --resume"
        newest = newest_checkpoint(folder)
        hint += f"; or --at {Path(newest).name} for a checkpoint" if newest else ""
        raise UsageError(f"stage {name} of {folder.path} is not complete", hint=hint)
    file = f"{plan.name}-{folder.path.name}" + (f"-{name}" if len(trained) > 1 else "")
    return Chosen(plan, trained[name], folder.stages / name, None, file, f"run {folder.path}: stage {name}")


def _from_checkpoint(folder: RunFolder, at: str) -> Chosen:
    plan, store = planned(folder), CheckpointStore(folder.checkpoints, keep=1)
    name, there = Path(at).name.removeprefix("step-"), store.steps()
    if not name.isdecimal() or int(name) not in there:
        have = ", ".join(f"step-{step}" for step in there) or "none"
        raise UsageError(f"{folder.checkpoints} has no checkpoint '{at}'", hint=f"it has: {have}")
    checkpoint = store.at(int(name))
    stage = next((each for each in plan.stages if each.name == checkpoint.meta.get("stage")), None)
    if stage is None or stage.kind.leaves != "weights":
        raise UsageError(f"{checkpoint.folder} is of no stage that answers", hint="name one of a `train` stage")
    before = start_in_plan(plan.stages, stage)
    world = World.single("cpu")
    start = None if before is None else Rounds(plan, folder, world, lambda _: None).folder_of(before, stage)
    file = f"{plan.name}-{folder.path.name}-{checkpoint.folder.name}"
    return Chosen(plan, stage, start, checkpoint, file, f"run {folder.path}: {checkpoint.folder.name}")


def _from_model(place: Path, recipe: Plan | None, stage: str | None, at: str | None) -> Chosen:
    if not (place / "config.json").is_file():
        raise UsageError(
            f"{place} holds neither plan.json nor config.json: it is no run's and no model's folder",
            hint="name a recipe, a run's folder, or a folder that `wavalign export` wrote",
        )
    if recipe is None:
        raise UsageError(
            f"{place} says nothing of its codec and of how answers are drawn",
            hint="--recipe RECIPE says it: the recipe it was trained by, or any with the same architecture and codec",
        )
    if at is not None:
        raise UsageError(f"--at names a checkpoint of a run, and {place} is a model", hint="leave it out")
    chosen = _stage(recipe, stage)
    model = chosen.stage.model.model_copy(
        update={"checkpoint": str(place.absolute()), "preset": None, "tokenizer": None, "adapter": None}
    )
    sections = chosen.stage.model_copy(update={"model": model})
    found = chosen.model_copy(update={"stage": sections})
    # A codec that a stage fitted is left beside the weights.
    beside = place if (place / "codec.safetensors").is_file() else None
    return Chosen(recipe, found, beside, None, place.absolute().name, f"model {place}")


def _stage(plan: Plan, name: str | None) -> StagePlan:
    answering = [each for each in plan.stages if each.kind.network and each.kind.leaves != "reward_model"]
    found = next((each for each in answering if name in (None, each.name)), None)
    if found is None:
        names = ", ".join(each.name for each in answering) or "none"
        raise UsageError(f"the recipe has no stage {name!r} that answers", hint=f"it has: {names}")
    return found


def _codec_given(stage: StagePlan) -> bool:
    codec = stage.stage.model.codec
    return codec is None or codec.params.get("checkpoint") is not None
