"""Plan to live objects: the only module that constructs them."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar, final

import torch

from wavalign.engine.backends.base import Placement, Precision
from wavalign.engine.compile.geometry import only_measuring
from wavalign.engine.compile.plan import Plan, StagePlan, TermPlan
from wavalign.engine.compile.stage_links import codec_before, writer_of
from wavalign.engine.contracts.construct import construct
from wavalign.engine.contracts.origins import guarded_block
from wavalign.engine.feeding.feeds import CodeCache, Encoder, Feed, feed_seed
from wavalign.engine.feeding.lengths import Lengths, bounded_feed, bounds_of
from wavalign.engine.models.adapters import attach
from wavalign.engine.models.recompute import recompute_layers
from wavalign.engine.models.reference import AdapterOff, FrozenCopy, Reference
from wavalign.engine.models.stage_backend import stage_backend, stage_placement
from wavalign.engine.models.starting_weights import StartingWeights, checkpoint_address
from wavalign.engine.run.evaluation import Evaluator
from wavalign.engine.state.distributed import World
from wavalign.engine.state.remembering import Remembered, Stateful
from wavalign.engine.state.seeds import derive
from wavalign.engine.step.dead_signal import SignalWatch
from wavalign.engine.step.rewards import LiveReward, RewardPool
from wavalign.engine.step.rollouts import Roller, check_codes, nothing_completes
from wavalign.engine.step.sampling import check_streams, rollout_options
from wavalign.engine.step.selection import Selection
from wavalign.engine.step.stage import LiveStage, StepSettings
from wavalign.engine.step.terms import LiveTerm
from wavalign.engine.step.waiting import Waiting, nobody
from wavalign.errors import PluginError, PreflightError, UsageError
from wavalign.plugins import audio
from wavalign.plugins.api import (
    Advantage,
    Architecture,
    Codec,
    DataSource,
    Gate,
    Loss,
    Mask,
    Metric,
    ModelSource,
    Nar,
    Plugin,
    Policy,
    Provider,
    Reward,
    Sampler,
    Tracker,
)
from wavalign.plugins.batch import TokenSpace
from wavalign.plugins.guard import origin_of
from wavalign.plugins.registry import Registry
from wavalign.schema.component import Component, WeightedComponent
from wavalign.schema.environment import resolve_secrets
from wavalign.storage.cache import cache_folder
from wavalign.storage.checkpoints import Want, local_folder, local_path

P = TypeVar("P", bound=Plugin)
C = TypeVar("C", bound=Component)
Progress = Callable[[str, int, int], None]


@final
class Builder:
    """Constructs the plugins and stages of one plan on one rank."""

    def __init__(self, plan: Plan, world: World, progress: Progress, waiting: Waiting = nobody) -> None:
        self.plan, self.world, self.progress, self.waiting = plan, world, progress, waiting
        self.registry = _prepared(plan)
        self._sources: dict[str, DataSource] = {}
        self.made: Mapping[str, Path] = {}
        """Folders of the answers that the present stage reads, by the names of the stages that wrote them."""

    def stage(self, stage: StagePlan, start: Path | None) -> LiveStage:
        """A `train` stage, starting from the folder an earlier stage left, or from what `model` says."""
        section = stage.stage
        self.waiting("building the model", 0, 0)
        codec = self.codec(stage, start)
        architecture = self.architecture(stage, start)
        check_streams(section, architecture.tokens)
        check_codes(architecture.tokens, codec)
        with guarded_block(architecture, "building its network"):
            policy = self.policy(stage, architecture)
        reference = self._reference(stage, architecture, policy)
        with guarded_block(architecture, "its network's heads"):
            backend = stage_backend(self.plan, stage, policy, architecture=architecture, world=self.world)
        if isinstance(reference, AdapterOff):
            reference.follow(backend)
        encoder = Encoder(architecture, self._codes(codec))
        sampler = self.plugin(Sampler, section.rollout.sampler, "rollout.sampler")
        roller = Roller(architecture, encoder, sampler, codec, self.nar(stage, architecture, codec))
        objective, place = section.objective, "objective"
        advantage = objective.advantage if objective is not None and stage.graph.gives("advantages") else None
        gate = objective.gate if objective is not None and stage.graph.gives("gate") else None
        terms = [self._term(term) for term in stage.terms if term.name in stage.graph.made_for("term")]
        live = LiveStage(
            plan=stage,
            settings=self._settings(stage, architecture.tokens),
            world=self.world,
            architecture=architecture,
            backend=backend,
            reference=reference,
            roller=roller,
            provider=self.plugin(Provider, section.rollout.provider, "rollout.provider", sample=roller.sample),
            feeds=self._feeds(stage, encoder, look=start is not None),
            rewards=self._rewards(stage),
            advantage=None if advantage is None else self.plugin(Advantage, advantage, f"{place}.advantage"),
            gate=None if gate is None else self.plugin(Gate, gate, f"{place}.gate"),
            terms=terms,
            selection=Selection(terms, architecture.tokens),
            evaluator=self._evaluator(stage, roller, encoder),
            signal=SignalWatch(stage, self.plan.runtime.dead_signal_after),
            remembered=Remembered(),
        )
        _remember(live)
        return live

    def _settings(self, stage: StagePlan, space: TokenSpace) -> StepSettings:
        """What the steps of a stage are told of its recipe."""
        section, adapter = stage.stage, stage.stage.model.adapter
        sampling = rollout_options(section.rollout, text_only=stage.graph.rollout_need == "text")
        geometry = stage.geometry if stage.geometry is not None else only_measuring(self.world.size)
        return StepSettings(
            stage=stage.name,
            steps=stage.steps,
            seed=self.plan.seed,
            geometry=geometry,
            sampling=sampling,
            temperatures=tuple(sampling.distribution(stream).temperature for stream in space.streams),
            truncated=section.rollout.truncated,
            importance_cap=section.rollout.importance_cap,
            reward_failure_budget=self.plan.runtime.reward_failure_budget,
            dropout=adapter is not None and adapter.dropout > 0,
            optim=section.optim,
        )

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
        policy = self.starting_weights(stage, architecture).policy(stage_placement(self.plan, stage, self.world))
        if self.plan.runtime.gradient_checkpointing:
            recompute_layers(policy)
        if model.adapter is not None:
            seed, precision = derive(self.plan.seed, stage.name, "adapter"), self.plan.runtime.precision
            attach(policy, model.adapter, architecture=architecture, seed=seed, precision=precision)
            return policy
        for name, parameter in policy.named_parameters():
            if architecture.parameter_group(name) in (model.freeze or ()):
                parameter.requires_grad_(False)  # never True: what an architecture does not use stays frozen
        return policy

    def checkpoint(self, stage: StagePlan, start: Path | None, *, want: Want = "weights") -> str | None:
        """Local folder of what the stage starts from, fetched where it lies elsewhere; None for random weights."""
        address = checkpoint_address(stage, start)
        if address is None:
            return None
        return local_folder(address, want=want, pickles=stage.stage.model.allow_pickles, progress=self.progress)

    def starting_weights(self, stage: StagePlan, architecture: Architecture) -> StartingWeights:
        """What the policy and its frozen reference start from: the checkpoint that the architecture stands over."""
        return StartingWeights(
            architecture,
            folder=architecture.source.checkpoint,
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

    def source(self, component: Component) -> DataSource:
        """A data source, not prepared."""
        return self.plugin(DataSource, self._located(component), seed=self.plan.seed)

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

    def _feeds(self, stage: StagePlan, encoder: Encoder, *, look: bool) -> dict[str, Feed]:
        """The headings that steps draw from; `look` where what a stage before left decides how long records are."""
        feeds = {}
        wanted = {name: stage.stage.data.learned[name] for name in stage.graph.made_for("data_rows")}
        if stage.graph.gives("prompts"):
            wanted["prompts"] = stage.stage.data.prompts or ()
        for name, found in wanted.items():
            sources = [(self.prepared_source(each), each.weight) for each in found]
            lengths = self.lengths(stage, name, encoder.architecture, encoder)
            seed = feed_seed(self.plan.seed, stage.name, name)
            feeds[name] = bounded_feed(sources, lengths, seed=seed, world=self.world, look=look)
        return feeds

    def _rewards(self, stage: StagePlan) -> RewardPool:
        live = [
            LiveReward(
                name, self.plugin(Reward, stage.stage.rewards[name], f"rewards.{name}"), stage.stage.rewards[name]
            )
            for name in _used(stage)
        ]
        return RewardPool(live, self.plan.runtime.reward_workers)

    def _term(self, term: TermPlan) -> LiveTerm:
        place = f"objective.terms.{term.name}"
        loss = self.plugin(Loss, term.loss, f"{place}.loss")
        return LiveTerm(term, loss, self.plugin(Mask, term.mask, f"{place}.tokens"))

    def _evaluator(self, stage: StagePlan, roller: Roller, encoder: Encoder) -> Evaluator:
        section = stage.stage
        splits, metrics = {}, {}
        if section.evaluation.metrics:
            # Every rank comes along: preparing a source is done together, and each measures its share.
            feeds = {name: self.feed(sources, 0) for name, sources in section.data.evaluation.items()}
            splits = {name: feed.all(section.evaluation.limit) for name, feed in feeds.items()}
            if self.world.is_first:
                for name, dialogues in splits.items():
                    self.lengths(stage, f"evaluation.{name}", encoder.architecture, encoder).refuse(dialogues)
            metrics = {
                name: self.plugin(Metric, each, f"evaluation.metrics.{name}")
                for name, each in section.evaluation.metrics.items()
            }
        return Evaluator(
            roller,
            splits,
            metrics,
            section=section.evaluation,
            max_new_tokens=section.rollout.max_new_tokens,
        )

    def _reference(self, stage: StagePlan, architecture: Architecture, policy: Policy) -> Reference | None:
        if stage.copies_reference:
            half = stage.deepspeed is not None and bool(stage.deepspeed["bf16"]["enabled"])
            placement = Placement(self.world.device, dtype=torch.bfloat16 if half else torch.float32)
            copied = self.starting_weights(stage, architecture).policy(placement)
            precision: Precision = "float32" if half else self.plan.runtime.precision
            return FrozenCopy(copied, device=self.world.device, precision=precision)
        return AdapterOff(policy) if stage.graph.gives("ref_logprobs") else None


def _prepared(plan: Plan) -> Registry:
    """The plan's plugins, in a process that reads no larger sounds than the plan allows."""
    audio.set_limits(plan.runtime.clips)
    return Registry(plan.plugins)


def _with_param(component: C, name: str, path: str) -> C:
    return component.model_copy(update={"params": {**component.params, name: path}})


def _silent(what: str, done: int, total: int) -> None:
    """Progress of ranks nobody watches."""


def _is_heard(stage: StagePlan) -> bool:
    """Whether the stage's answers become sound."""
    measured = bool(stage.stage.evaluation.metrics) and stage.kind.learns
    return measured or stage.kind.leaves == "dataset" or stage.graph.gives("waveforms")


def _hearing(registry: Registry, stage: StagePlan) -> str:
    """Who needs the sound of the stage's answers, in words; empty where nobody does."""
    if stage.kind.leaves == "dataset":
        return f"stage {stage.name} writes the sound of its answers"
    listeners = _listeners(registry, stage)
    return f"{', '.join(listeners)} must hear the answers" if listeners else ""


def _listeners(registry: Registry, stage: StagePlan) -> list[str]:
    """Rewards and metrics of the stage that need the sound of answers."""
    rewards, metrics = stage.stage.rewards, stage.stage.evaluation.metrics
    plugins = {f"reward `{x}`": registry.get("reward", rewards[x].type) for x in _used(stage)}
    plugins |= {f"metric `{x}`": registry.get("metric", each.type) for x, each in metrics.items()}
    return [x for x, each in plugins.items() if issubclass(each, Reward | Metric) and "waveform" in each.needs]


def _used(stage: StagePlan) -> tuple[str, ...]:
    """Rewards that were not pruned."""
    return stage.graph.made_for("reward")


def _remember(live: LiveStage) -> None:
    """Register all of a stage that has a state."""
    named: dict[str, Stateful | None] = {"gate": live.gate, "advantage": live.advantage, "provider": live.provider}
    named |= {f"reward.{each.name}": each.reward for each in live.rewards.rewards}
    named |= {f"feed.{name}": feed for name, feed in live.feeds.items()}
    for name, each in {**named, "signal": live.signal}.items():
        if each is not None:
            live.remembered.add(name, each)
