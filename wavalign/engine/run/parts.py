"""A plan's plugins, networks and data as live objects: with `builder.py` the only module that constructs them."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from wavalign.engine.compile.adapter import PREDICTING
from wavalign.engine.compile.plan import Plan, StagePlan
from wavalign.engine.compile.reward_checks import declared_needs
from wavalign.engine.compile.stage_links import codec_before, writer_of
from wavalign.engine.contracts.construct import construct
from wavalign.engine.feeding.asking import asking
from wavalign.engine.feeding.feeds import CodeCache, Encoder, Feed
from wavalign.engine.feeding.lengths import Lengths, bounds_of
from wavalign.engine.models.adapters import attach
from wavalign.engine.models.recompute import recompute_layers
from wavalign.engine.models.stage_backend import stage_placement
from wavalign.engine.models.starting_weights import StartingWeights, checkpoint_address
from wavalign.engine.state.distributed import World
from wavalign.engine.state.seeds import derive
from wavalign.engine.step.rollouts import nothing_completes
from wavalign.engine.step.waiting import Waiting, nobody
from wavalign.errors import PluginError, PreflightError, UsageError
from wavalign.plugins import audio
from wavalign.plugins.api import (
    Architecture,
    Codec,
    DataSource,
    Metric,
    ModelSource,
    Nar,
    Plugin,
    Policy,
    Reward,
    Tracker,
)
from wavalign.plugins.guard import origin_of
from wavalign.plugins.registry import Registry
from wavalign.schema.component import Component, WeightedComponent
from wavalign.schema.environment import resolve_secrets
from wavalign.schema.pairs import rewards_asked
from wavalign.schema.reward import RewardSection
from wavalign.storage.cache import cache_folder
from wavalign.storage.checkpoints import Want, local_folder, local_path

P = TypeVar("P", bound=Plugin)
C = TypeVar("C", bound=Component)
Progress = Callable[[str, int, int], None]


class Parts:
    """Constructs the plugins of one plan on one rank, and what they are made from."""

    def __init__(self, plan: Plan, world: World, progress: Progress, waiting: Waiting = nobody) -> None:
        self.plan, self.world, self.progress, self.waiting = plan, world, progress, waiting
        self.registry = _prepared(plan)
        self._sources: dict[str, DataSource] = {}
        self.made: Mapping[str, Path] = {}
        """Folders of the answers that the present stage reads, by the names of the stages that wrote them."""
        self.reward_models: Mapping[str, Path] = {}
        """Those that the present stage scores with, by the names of the stages that left them."""
        self.run_folder: Path | None = None
        """Where rewards may keep files of their own; None outside a run."""
        self.opened: dict[tuple[str, str], object] = {}
        """Reward models that are loaded, by stage and address."""

    def plugin(self, base: type[P], component: Component, name: str = "", **runtime: object) -> P:
        """Construct a plugin, guarded: its Params and the runtime objects its kind names; `name` is the recipe's."""
        plugin = self.registry.get(base.kind, component.type)
        params = resolve_secrets(dict(component.params), os.environ)
        origin = origin_of(plugin, base.kind, component.type, name)
        return construct(base, plugin, origin, params, runtime)

    def architecture(self, stage: StagePlan, start: Path | None, *, want: Want = "weights") -> Architecture:
        """The stage's architecture, over its starting checkpoint; `layout` is enough of it to encode dialogues."""
        model = stage.stage.model
        checkpoint = self.checkpoint(stage, start, want=want)
        tokenizer = model.tokenizer
        if tokenizer is not None and checkpoint is None:
            tokenizer = local_folder(tokenizer, want="layout", progress=self.progress)
        source = ModelSource(checkpoint, None if checkpoint else model.preset, tokenizer, device=str(self.world.device))
        return self.plugin(Architecture, model.architecture, "model.architecture", source=source)

    def policy(self, stage: StagePlan, architecture: Architecture) -> Policy:
        """The stage's network with its starting weights, frozen groups frozen, adapters on it."""
        model = stage.stage.model
        place = stage_placement(self.plan, stage, self.world)
        policy = self.starting_weights(stage, architecture).policy(place)
        if self.plan.runtime.gradient_checkpointing:
            recompute_layers(policy)
        if model.adapter is not None:
            seed, precision = derive(self.plan.seed, stage.name, "adapter"), self.plan.runtime.precision
            attach(policy, model.adapter, architecture=architecture, seed=seed, precision=precision, placement=place)
            return policy
        for name, parameter in policy.named_parameters():
            if architecture.parameter_group(name) in (model.freeze or ()):
                parameter.requires_grad_(False)  # never True: what an architecture does not use stays frozen
        return policy

    def critic(self, stage: StagePlan, architecture: Architecture) -> Policy | None:
        """The network that scalar heads read where they have one of their own; what only predicts tokens is frozen."""
        objective = stage.stage.objective
        if objective is None or not stage.has_critic:
            return None
        start = objective.critic.start
        folder = None if start is None else local_folder(start, want="weights", progress=self.progress)
        weights = self.starting_weights(stage, architecture, folder=folder)
        critic = weights.policy(stage_placement(self.plan, stage, self.world))
        if self.plan.runtime.gradient_checkpointing:
            recompute_layers(critic)
        for name, parameter in critic.named_parameters():
            if architecture.parameter_group(name) in (*PREDICTING, *(stage.stage.model.freeze or ())):
                parameter.requires_grad_(False)
        return critic

    def checkpoint(self, stage: StagePlan, start: Path | None, *, want: Want = "weights") -> str | None:
        """Local folder of what the stage starts from, fetched where it lies elsewhere; None for random weights."""
        address = checkpoint_address(stage, start)
        if address is None:
            return None
        return local_folder(address, want=want, pickles=stage.stage.model.allow_pickles, progress=self.progress)

    def starting_weights(
        self, stage: StagePlan, architecture: Architecture, *, folder: str | None = None
    ) -> StartingWeights:
        """What networks start from: `folder`, or else the checkpoint that the architecture stands over."""
        return StartingWeights(
            architecture,
            folder=folder if folder is not None else architecture.source.checkpoint,
            seed=derive(self.plan.seed, "policy"),
            pickles=stage.stage.model.allow_pickles,
        )

    def codec(self, stage: StagePlan, start: Path | None) -> Codec | None:
        """The stage's codec; one fitted by an earlier stage takes the place of its checkpoint."""
        component = stage.stage.model.codec
        if component is None:
            return None
        if start is not None and (start / "codec.safetensors").exists():
            component = _with_param(component, "checkpoint", str(start / "codec.safetensors"))
        address = component.params.get("checkpoint")
        if isinstance(address, str) and local_path(address) is None:
            found = local_folder(address, want="weights", progress=self.progress)
            component = _with_param(component, "checkpoint", found)
        codec = self.plugin(Codec, component, "model.codec")
        heard = "" if codec.can_decode else _hearing(self.registry, stage)
        if heard:
            raise PreflightError(
                f"{heard}, and codec {component.type} was given no decoder",
                hint=f"`wavalign plugins show codec.{component.type}` says what to set, or take out what listens",
            )
        return codec

    def nar(self, stage: StagePlan, architecture: Architecture, codec: Codec | None) -> Nar | None:
        """What completes the frames of answers; PluginError where it does not fit architecture and codec.

        Raises PreflightError where there is none, and answers that hold parts of frames are to be heard.
        """
        component, written = stage.stage.model.nar, architecture.tokens.frame_codes
        if codec is None:
            return None
        if component is None:
            if written is not None and _is_heard(stage):
                raise nothing_completes(written, codec)
            return None
        nar, whole = self.plugin(Nar, component, "model.nar"), codec.codes_per_frame
        if (nar.codes_given, nar.codes_per_frame) != (written, whole):
            raise PluginError(
                f"nar '{component.type}' makes {nar.codes_per_frame} ids of {nar.codes_given} in every frame; "
                f"the model writes {whole if written is None else written}, the codec has {whole}",
                hint="remove model.nar where the model writes whole frames; else let it write what the nar takes",
            )
        if nar.num_codes not in (None, codec.num_codes):
            raise PluginError(
                f"nar '{component.type}' has {nar.num_codes} ids in all, the codec {codec.num_codes}",
                hint="take the codec that the nar was trained with",
            )
        return nar

    def source(self, component: WeightedComponent) -> DataSource:
        """A data source, not prepared, with its questions asked as the recipe says."""
        return asking(self.plugin(DataSource, self._located(component), seed=self.plan.seed), component.ask)

    def _located(self, component: C) -> C:
        """One that reads what a stage wrote finds it in the run's folder; raises UsageError outside a run."""
        writer = writer_of(component)
        if writer is None:
            return component
        if writer not in self.made:
            raise UsageError(
                f"the data that stage {writer} writes is there only within a run",
                hint="name what a run wrote: RUN/stages/NAME/data",
            )
        return _with_param(component, "path", str(self.made[writer]))

    def feed(self, sources: Sequence[WeightedComponent], seed: int) -> Feed:
        """A heading's sources, prepared; equal sources are prepared once."""
        return Feed([(self.prepared_source(each), each.weight) for each in sources], seed=seed)

    def trackers(self, folder: Path) -> list[Tracker]:
        """Where metrics go besides metrics.jsonl."""
        return [self.plugin(Tracker, each, folder=str(folder)) for each in self.plan.runtime.trackers]

    def prepared_source(self, component: WeightedComponent) -> DataSource:
        """A data source, prepared once; every rank calls it."""
        key = self._located(component).model_copy(update={"weight": 1.0}).model_dump_json()
        if key not in self._sources:
            source = self.source(component)
            self.waiting(f"preparing data of type {component.type}", 0, 0)
            if self.world.is_first:
                source.prepare(self.progress)
            self.world.barrier()  # the others find on disk what the first has built
            if not self.world.is_first:
                source.prepare(_silent)
            self._sources[key] = source
        return self._sources[key]

    def lengths(
        self, stage: StagePlan, heading: str, architecture: Architecture, encoder: Encoder | None = None
    ) -> Lengths:
        """Bounds of a heading's dialogues; without an `encoder` as far as a run knows them before its first stage."""
        bounds = bounds_of(stage.stage.data, heading, architecture.dimensions().positions)
        if encoder is not None:
            return Lengths(bounds, lambda: encoder)
        fitted = codec_before(self.plan.stages, stage)

        def made() -> Encoder:
            return Encoder(architecture, None if fitted else self._codes(self.codec(stage, None)))

        return Lengths(bounds, made, sounds=not fitted)

    def _codes(self, codec: Codec | None) -> CodeCache | None:
        return None if codec is None else CodeCache(codec, cache_folder() / "codes.sqlite")


def _prepared(plan: Plan) -> Registry:
    """The plan's plugins, in a process that reads no larger sounds than the plan allows."""
    audio.set_limits(plan.runtime.clips)
    return Registry(plan.plugins)


def _silent(what: str, done: int, total: int) -> None:
    """Progress of ranks nobody watches."""


def _listeners(registry: Registry, stage: StagePlan) -> list[str]:
    """Rewards and metrics of the stage that need the sound of answers."""
    rewards, metrics = stage.stage.rewards, stage.stage.evaluation.metrics
    asked = {*used_rewards(stage), *stage.stage.choosing}
    needs = {f"reward `{x}`": _needs(registry, each) for x, each in rewards.items() if x in asked}
    plugins = {f"metric `{x}`": registry.get("metric", each.type) for x, each in metrics.items()}
    needs |= {x: each.needs for x, each in plugins.items() if issubclass(each, Metric)}
    return [x for x, each in needs.items() if "waveform" in each]


def _needs(registry: Registry, reward: RewardSection) -> frozenset[str]:
    plugin = registry.get("reward", reward.type)
    assert issubclass(plugin, Reward)
    return declared_needs(reward, plugin)


def used_rewards(stage: StagePlan) -> tuple[str, ...]:
    """Rewards that were not pruned, or that decide who is better in a pair."""
    if stage.stage.type == "pairs":
        return rewards_asked(stage.stage.pairs, stage.stage.rewards)
    return stage.graph.made_for("reward")


def _with_param(component: C, name: str, path: str) -> C:
    return component.model_copy(update={"params": {**component.params, name: path}})


def _is_heard(stage: StagePlan) -> bool:
    """Whether the stage's answers become sound."""
    measured = bool(stage.stage.evaluation.metrics) and stage.kind.measures
    return measured or stage.kind.leaves == "dataset" or stage.graph.gives("waveforms")


def _hearing(registry: Registry, stage: StagePlan) -> str:
    """Who needs the sound of the stage's answers, in words; empty where nobody does."""
    if stage.kind.leaves == "dataset":
        return f"stage {stage.name} writes the sound of its answers"
    listeners = _listeners(registry, stage)
    return f"{', '.join(listeners)} must hear the answers" if listeners else ""
