"""The model that is to answer: a recipe's, a run's at some stage or checkpoint, or one in a folder of its own."""

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import final

from wavalign.engine.backends.base import DTYPES, Placement, autocast
from wavalign.engine.backends.training_state import load_weights
from wavalign.engine.compile.plan import Plan, StagePlan
from wavalign.engine.compile.stage_links import codec_before, start_in_plan
from wavalign.engine.contracts.origins import guarded_block
from wavalign.engine.feeding.feeds import CodeCache, Encoder
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.exporting import find_model
from wavalign.engine.run.progress import newest_checkpoint, planned
from wavalign.engine.run.rounds import Rounds
from wavalign.engine.state.checkpoint import Checkpoint, CheckpointStore
from wavalign.engine.state.distributed import World
from wavalign.engine.state.folder import RunFolder
from wavalign.engine.step.rollouts import Roller, check_codes
from wavalign.engine.step.sampling import check_streams
from wavalign.errors import UsageError
from wavalign.plugins.api import Policy, Sampler
from wavalign.storage.cache import cache_folder


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
    run = _run_of(place)
    if run is None:
        return _from_model(place, recipe, stage, at)
    if recipe is not None:
        raise UsageError("--recipe goes with a model's folder: a run knows its own", hint="leave it out")
    folder = RunFolder(run)
    if at is None and place.absolute().parent.name == "checkpoints":
        at = place.name
    if at is not None:
        return _from_checkpoint(folder, at)
    try:
        plan, found, model = find_model(run, stage or _stage_of(place.absolute()))
    except UsageError as error:
        newest = newest_checkpoint(folder)
        error.hint = f"{error.hint}; or --at {Path(newest).name} for a checkpoint" if newest else error.hint
        raise
    several = sum(each.kind.leaves == "weights" for each in plan.stages) > 1
    name = f"{plan.name}-{run.name}" + (f"-{found.name}" if several else "")
    return Chosen(plan, found, model.parent, None, name, f"run {run}: stage {found.name}")


def _run_of(place: Path) -> Path | None:
    """The run that a folder is, or is a part of: stages/NAME, stages/NAME/model, checkpoints/step-N, model."""
    whole = place.absolute()
    near = (whole, whole.parent, whole.parent.parent, whole.parent.parent.parent)
    return next((each for each in near if (each / "plan.json").is_file()), None)


def _stage_of(place: Path) -> str | None:
    """The stage that a folder inside a run is of."""
    found = (each.name for each in (place, place.parent) if each.parent.name == "stages")
    return next(found, None)


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


@final
class OpenModel:
    """A chosen model, loaded piece by piece: what tells it apart first, its network when something is to be answered.

    Close it by `close`.
    """

    def __init__(self, chosen: Chosen, progress: Callable[[str, int, int], None]) -> None:
        self.chosen = chosen
        self.world = World.single(chosen.plan.device)
        self.builder = Builder(chosen.plan, self.world, progress)
        self._inside = ExitStack()
        stage, start = chosen.stage, chosen.start
        self.codec = self.builder.codec(stage, start)
        self.architecture = self.builder.architecture(stage, start)
        check_streams(stage.stage, self.architecture.tokens)
        check_codes(self.architecture.tokens, self.codec)
        cache = None if self.codec is None else CodeCache(self.codec, cache_folder() / "codes.sqlite")
        sampler = self.builder.plugin(Sampler, stage.stage.rollout.sampler, "rollout.sampler")
        nar = self.builder.nar(stage, self.architecture, self.codec)
        self.roller = Roller(self.architecture, Encoder(self.architecture, cache), sampler, self.codec, nar)

    @property
    def fingerprint(self) -> str:
        """Sum of the weights' files, or of how they are drawn."""
        if self.chosen.checkpoint is not None:
            files = sorted(self.chosen.checkpoint.files.items())
            return hashlib.sha256(json.dumps(files).encode()).hexdigest()
        return self.builder.starting_weights(self.chosen.stage, self.architecture).fingerprint()

    def policy(self) -> Policy:
        """The network, its weights whole on this machine's device."""
        plan, stage = self.chosen.plan, self.chosen.stage
        placement = Placement(self.world.device, dtype=DTYPES[plan.runtime.precision])
        with guarded_block(self.architecture, "building its network"):
            if stage.stage.model.adapter is None or self.chosen.checkpoint is None:
                policy = self.builder.starting_weights(stage, self.architecture).policy(placement)
            else:  # adapters stay beside what they adapt, which is held less precisely
                alone = stage.model_copy(update={"deepspeed": None})
                policy = self.builder.policy(alone, self.architecture)
                self._inside.enter_context(autocast(self.world.device, plan.runtime.precision))
        if self.chosen.checkpoint is not None:
            store = CheckpointStore(self.chosen.checkpoint.folder.parent, keep=1)
            store.load(self.chosen.checkpoint, lambda folder: load_weights(policy, folder), world=self.world)
        return policy

    def close(self) -> None:
        """Free the network."""
        self._inside.close()
