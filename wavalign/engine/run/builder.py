"""A plan's stages as live objects."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

import torch

from wavalign.engine.backends.base import DTYPES, Placement, Precision
from wavalign.engine.compile.ahead import AHEAD
from wavalign.engine.compile.geometry import only_measuring
from wavalign.engine.compile.model_flops import token_flops
from wavalign.engine.compile.operators import ROLLOUTS
from wavalign.engine.compile.peaks import peak_flops
from wavalign.engine.compile.plan import Geometry, StagePlan, TermPlan
from wavalign.engine.contracts.origins import guarded_block
from wavalign.engine.feeding.feeds import Encoder, Feed, feed_seed
from wavalign.engine.feeding.lengths import bounded_feed
from wavalign.engine.models.packed_rows import packing_options
from wavalign.engine.models.reference import AdapterOff, DividedCopy, FrozenCopy, Reference
from wavalign.engine.models.reference_cache import FILE, ReferenceCache
from wavalign.engine.models.stage_backend import divided_scorer, stage_backend, stage_placement
from wavalign.engine.run.evaluation import Evaluator
from wavalign.engine.run.halving import most_rows
from wavalign.engine.run.parts import Parts, used_rewards
from wavalign.engine.run.reward_models import OpenModels
from wavalign.engine.state.distributed import World
from wavalign.engine.state.remembering import Remembered, Stateful
from wavalign.engine.step.ahead import InFlight
from wavalign.engine.step.best_of import BestOf
from wavalign.engine.step.cutting import Cutter
from wavalign.engine.step.dead_signal import SignalWatch
from wavalign.engine.step.reward_pool import LiveReward, RewardPool
from wavalign.engine.step.rollouts import Roller, check_codes
from wavalign.engine.step.sampling import check_streams, rollout_options
from wavalign.engine.step.selection import Selection
from wavalign.engine.step.skipping import SkipWatch
from wavalign.engine.step.stage import LiveStage, StepSettings
from wavalign.engine.step.terms import LiveTerm
from wavalign.plugins.api import (
    Advantage,
    Architecture,
    Gate,
    Loss,
    Mask,
    Metric,
    Policy,
    Process,
    Provider,
    Reward,
    Sampler,
)
from wavalign.plugins.packing import PackingOptions
from wavalign.storage.cache import cache_folder


@final
class Builder(Parts):
    """Constructs the stages of one plan on one rank."""

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
            critic = self.critic(stage, architecture)
            backend = stage_backend(
                self.plan, stage, policy, architecture=architecture, world=self.world, critic=critic
            )
        if isinstance(reference, AdapterOff):
            reference.follow(backend)
        encoder = Encoder(architecture, self._codes(codec))
        sampler = self.plugin(Sampler, section.rollout.sampler, "rollout.sampler")
        roller = Roller(architecture, encoder, sampler, codec, self.nar(stage, architecture, codec))
        objective, place = section.objective, "objective"
        advantage = objective.advantage if objective is not None and _learns_from_rewards(stage) else None
        gate = objective.gate if objective is not None and stage.graph.gives("gate") else None
        terms = [self._term(term) for term in stage.terms if term.name in stage.graph.made_for("term")]
        settings, also = self._settings(stage, architecture), _asked_by_advantage(stage)
        feeds = self._feeds(stage, encoder, look=start is not None)
        selection = Selection(terms, architecture.tokens, also, _packing(settings.geometry, architecture, policy))
        live = LiveStage(
            plan=stage,
            settings=settings,
            world=self.world,
            architecture=architecture,
            backend=backend,
            reference=reference,
            reference_cache=self._reference_cache(stage, architecture),
            roller=roller,
            provider=self.plugin(Provider, section.rollout.provider, "rollout.provider", sample=roller.sample),
            feeds=feeds,
            rewards=self.rewards(stage, used_rewards(stage), roller),
            advantage=None if advantage is None else self.plugin(Advantage, advantage, f"{place}.advantage"),
            gate=None if gate is None else self.plugin(Gate, gate, f"{place}.gate"),
            terms=terms,
            selection=selection,
            cutter=Cutter(selection, terms, limits=settings.limits, world=self.world),
            signal=SignalWatch(stage, self.plan.runtime.dead_signal_after),
            skips=SkipWatch(self.plan.runtime.non_finite_limit),
            remembered=Remembered(),
            in_flight=_in_flight(stage, feeds, encoder, self.world),
        )
        return _settled(live)

    def _peak(self) -> float | None:
        """Operations a second of this rank's device in the run's precision, where they are known."""
        device = self.world.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return peak_flops(name, self.plan.runtime.precision)

    def _settings(self, stage: StagePlan, architecture: Architecture) -> StepSettings:
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
            temperatures=tuple(sampling.distribution(stream).temperature for stream in architecture.tokens.streams),
            truncated=section.rollout.truncated,
            importance_cap=section.rollout.importance_cap,
            resample_limit=0 if section.rollout.resample is None else section.rollout.resample.limit,
            reward_failure_budget=self.plan.runtime.reward_failure_budget,
            most_rows=None if self.run_folder is None else most_rows(self.run_folder, stage.name),
            dropout=adapter is not None and adapter.dropout > 0,
            optim=section.optim,
            flops=token_flops(architecture, section.model, critic=stage.has_critic),
            peak=self._peak(),
        )

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

    def rewards(self, stage: StagePlan, names: Sequence[str], roller: Roller) -> RewardPool:
        """Rewards of a stage that score what `roller` draws."""
        live, models = [], OpenModels(self, stage, roller)
        for name in names:
            section = stage.stage.rewards[name]
            reward = self.plugin(Reward, section, f"rewards.{name}")
            reward.prepare(models)
            reward.join(self._process(name, section.timeout))
            live.append(LiveReward(name, reward, section, stage.corrections.get(name)))
        return RewardPool(live, self.plan.runtime.reward_workers)

    def _process(self, name: str, timeout: float) -> Process:
        folder = None if self.run_folder is None else self.run_folder / "rewards" / name
        return Process(self.world.rank, self.world.size, folder, timeout)

    def _term(self, term: TermPlan) -> LiveTerm:
        place = f"objective.terms.{term.name}"
        loss = self.plugin(Loss, term.loss, f"{place}.loss")
        return LiveTerm(term, loss, self.plugin(Mask, term.mask, f"{place}.tokens"))

    def evaluator(self, stage: StagePlan, roller: Roller) -> Evaluator:
        """What measures a policy on the stage's held-out splits; the caller closes it."""
        section, encoder = stage.stage, roller.encoder
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
        made = Evaluator(
            roller,
            splits,
            metrics,
            section=section.evaluation,
            max_new_tokens=section.rollout.max_new_tokens,
            best=self._best_of(stage, roller),
        )
        made.make_start = lambda: self._first_policy(stage)
        return made

    def _first_policy(self, stage: StagePlan) -> Policy:
        """The network of what `model` names, whatever stages came between; whole on this rank and not to be trained."""
        dtype = DTYPES[self.plan.runtime.precision]
        weights = self.starting_weights(stage, self.architecture(stage, None))
        return weights.policy(Placement(self.world.device, dtype=dtype)).requires_grad_(False)

    def _best_of(self, stage: StagePlan, roller: Roller) -> BestOf | None:
        """What chooses among held-out answers; with rewards of its own, for those of a step may remember."""
        section, names = stage.stage, stage.stage.choosing
        if section.evaluation.best_of is None or not names:
            return None
        pool, budget = self.rewards(stage, names, roller), self.plan.runtime.reward_failure_budget
        return BestOf(section.evaluation.best_of.n, pool, section.rollout.truncated, budget)

    def _reference(self, stage: StagePlan, architecture: Architecture, policy: Policy) -> Reference | None:
        place = stage_placement(self.plan, stage, self.world)
        if not stage.copies_reference:
            return AdapterOff(policy, architecture.tokens, place) if stage.graph.gives("ref_logprobs") else None
        copied = self.starting_weights(stage, architecture).policy(place)
        if place.among is not None:
            return DividedCopy(divided_scorer(stage, copied, architecture=architecture, world=self.world))
        precision: Precision = self.plan.runtime.precision if place.dtype == torch.float32 else "float32"
        return FrozenCopy(copied, architecture.tokens, device=self.world.device, precision=precision)

    def _reference_cache(self, stage: StagePlan, architecture: Architecture) -> ReferenceCache | None:
        """Where the reference's log-probs of rows of data are kept; None where it scores none."""
        used = [term for term in stage.terms if term.name in stage.graph.made_for("term")]
        if not any("ref_logprobs" in term.needs and term.family != ROLLOUTS for term in used):
            return None
        self.waiting("reading what the reference is made of", 0, 0)
        weights = self.starting_weights(stage, architecture)
        made_of = self.world.broadcast(weights.fingerprint() if self.world.is_first else "")
        device, model = self.world.device, stage.stage.model
        about = {
            "weights": made_of,
            "network": model.architecture.model_dump(mode="json"),
            "preset": model.preset,
            "plugins": self.plan.plugin_digests,
            "precision": self.plan.runtime.precision,
            "adapter": None if model.adapter is None else model.adapter.model_dump(mode="json"),
            "deepspeed": stage.deepspeed is not None,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        }
        return ReferenceCache(cache_folder() / FILE, about=about)


def _learns_from_rewards(stage: StagePlan) -> bool:
    return stage.graph.gives("advantages") or stage.graph.gives("returns")


def _asked_by_advantage(stage: StagePlan) -> dict[str, frozenset[str]]:
    """Columns that the advantage asks for wherever a term learns from it, with what such a term needs."""
    learning = frozenset({"advantages", "returns"})
    asked = next((each.needs for each in stage.graph.operators if each.function == "token_advantage"), ())
    return dict.fromkeys(("advantages", *({"old_logprobs", "ref_logprobs"} & set(asked))), learning)


def _packing(cut: Geometry, architecture: Architecture, policy: Policy) -> PackingOptions | None:
    """How the network is given rows; None for as they are."""
    return packing_options(policy, architecture.dimensions(), share=cut.share_prompts, pack=cut.packing)


def _in_flight(stage: StagePlan, feeds: Mapping[str, Feed], encoder: Encoder, world: World) -> InFlight | None:
    """Where answers wait for their step; None where nothing is sampled ahead."""
    if not stage.graph.made_for(AHEAD) or stage.geometry is None:
        return None
    each = stage.geometry.prompts_per_process
    share = slice(world.rank * each, (world.rank + 1) * each)
    return InFlight(feeds["prompts"], encoder, prompts=stage.geometry.prompts, share=share)


def _settled(live: LiveStage) -> LiveStage:
    """The stage, with all of it registered that has a state or is to be closed."""
    named: dict[str, Stateful | None] = {"gate": live.gate, "advantage": live.advantage, "provider": live.provider}
    named |= {f"reward.{each.name}": each.reward for each in live.rewards.rewards}
    named |= {f"feed.{name}": feed for name, feed in live.feeds.items()}
    if live.in_flight is not None:
        named["feed.prompts"] = live.in_flight
    for name, each in {**named, "signal": live.signal, "skips": live.skips}.items():
        if each is not None:
            live.remembered.add(name, each)
    if live.reference_cache is not None:
        live.closing.append(live.reference_cache.close)
    return live
