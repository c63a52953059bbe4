"""Reward models opened for scoring: found, held against what they are to score, loaded once a stage."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from safetensors.torch import load_file

from wavalign.engine.backends.base import DTYPES, Placement
from wavalign.engine.compile.plan import StagePlan
from wavalign.engine.compile.stage_links import WRITTEN
from wavalign.engine.contracts.origins import guarded_block
from wavalign.engine.models.reward_card import (
    HEADS,
    NETWORK,
    CodecIdentity,
    FacetCard,
    RewardCard,
    TokenIdentity,
    codec_problem,
    read_card,
    token_problem,
)
from wavalign.engine.models.reward_network import FacetHead, RewardNetwork
from wavalign.engine.models.starting_weights import StartingWeights
from wavalign.engine.run.parts import Parts
from wavalign.engine.step.rollouts import Roller
from wavalign.errors import DataError, PreflightError, UsageError
from wavalign.plugins.api import Architecture, Facet, Mask, ModelSource
from wavalign.plugins.batch import Dialogue, Rollout, TokenSequence, concatenate
from wavalign.plugins.scalars import ScalarHead
from wavalign.storage.checkpoints import local_folder, local_path

ROWS = 16
"""Most rows of a forward."""


@final
class OpenedModel:
    """A reward model that scores answers of one stage's policy."""

    def __init__(self, network: RewardNetwork, card: RewardCard, architecture: Architecture, roller: Roller) -> None:
        """Score with `network`, whose prompts `architecture` writes; sound of prompts is encoded by `roller`."""
        self.facets = tuple(Facet(each.name, each.mean, each.std) for each in card.facets)
        self._network, self._architecture, self._encoder = network, architecture, roller.encoder
        self._positions = architecture.dimensions().positions
        self._lock = threading.Lock()

    def rewards(self, rollouts: Sequence[Rollout], dialogues: Sequence[Dialogue]) -> list[Mapping[str, float]]:
        """Of every answer its reward by facet; raises DataError for a row longer than the network is made for."""
        with self._lock:
            prompts: dict[int, TokenSequence] = {}
            for each in dialogues:
                if id(each) not in prompts:
                    prompts[id(each)] = self._architecture.encode_prompt(each, self._encoder.codes)
            space = self._architecture.tokens
            rows = [
                concatenate(prompts[id(dialogue)], rollout.completion, space)
                for rollout, dialogue in zip(rollouts, dialogues, strict=True)
            ]
            longest = max((row.length for row in rows), default=0)
            if self._positions is not None and longest > self._positions:
                raise DataError(f"prompt and answer have {longest} positions, and the reward model {self._positions}")
            found = self._network.rewards(rows, size=ROWS)
        return [{name: float(each[index]) for name, each in found.items()} for index in range(len(rows))]


@final
@dataclass(frozen=True, slots=True)
class OpenModels:
    """Opens reward models for one stage."""

    parts: Parts
    stage: StagePlan
    roller: Roller

    def open(self, address: str) -> OpenedModel:
        """That at `address`, or the one that an earlier stage left; equal ones are loaded once a stage."""
        known = self.parts.opened.get((self.stage.name, address))
        if isinstance(known, OpenedModel):
            return known
        # What another stage scored with is freed.
        self.parts.opened = {key: each for key, each in self.parts.opened.items() if key[0] == self.stage.name}
        found = self.parts.opened[self.stage.name, address] = self._loaded(address)
        return found

    def _loaded(self, address: str) -> OpenedModel:
        folder, section = reward_folder(self.parts, address), self.stage.stage
        card = read_card(folder, address)
        codec = CodecIdentity.of(section.model.codec, self.roller.codec)
        problem = token_problem(card.tokens, TokenIdentity.of(self.roller.architecture))
        if problem := _architecture_problem(card, self.stage) or problem or codec_problem(card.codec, codec):
            raise unfit(address, problem)
        self.parts.waiting("loading the reward model", 0, 0)
        source = ModelSource(str(folder / NETWORK), None, None, device=str(self.parts.world.device))
        architecture = self.parts.plugin(Architecture, card.architecture, f"{address}: architecture", source=source)
        placement = Placement(self.parts.world.device, dtype=DTYPES[self.parts.plan.runtime.precision])
        with guarded_block(architecture, "building its network"):
            policy = StartingWeights(architecture, folder=str(folder / NETWORK), seed=0).policy(placement)
        policy.requires_grad_(False).eval()
        facets = [self._facet(each, address) for each in card.facets]
        network = RewardNetwork(policy, architecture.tokens, facets, load_file(folder / HEADS))
        return OpenedModel(network, card, architecture, self.roller)

    def _facet(self, card: FacetCard, address: str) -> FacetHead:
        mask = self.parts.plugin(Mask, card.mask, f"{address}: mask")
        return FacetHead(card.name, ScalarHead(card.head, card.unit), mask)


def reward_folder(parts: Parts, address: str) -> Path:
    """Local folder of a reward model; UsageError for that of a stage outside a run."""
    if not address.startswith(WRITTEN):
        return Path(local_folder(address, want="everything", progress=parts.progress))
    name = address.removeprefix(WRITTEN)
    if name not in parts.reward_models:
        raise UsageError(
            f"the reward model that stage {name} leaves is there only within a run",
            hint="name what a run left: RUN/stages/NAME/reward_model",
        )
    return parts.reward_models[name]


def unfit_models(parts: Parts, stage: StagePlan, architecture: Architecture | None) -> Iterator[tuple[str, str]]:
    """Reward models of a stage that lie on this machine and cannot score for it, with what to do; before a run.

    Tokens are compared where the `architecture` is known already, codecs when both are constructed.
    """
    for name, reward in stage.stage.rewards.items():
        address = reward.params.get("model") if reward.type == "reward_model" else None
        if not isinstance(address, str) or address.startswith(WRITTEN) or local_path(address) is None:
            continue
        try:
            card = read_card(reward_folder(parts, address), address)
        except PreflightError as error:
            yield f"rewards.{name}.model: {error.message}", error.hint
            continue
        problem = _architecture_problem(card, stage)
        if not problem and architecture is not None:
            problem = token_problem(card.tokens, TokenIdentity.of(architecture))
        codec = stage.stage.model.codec
        if not problem and card.codec is not None and codec is not None and card.codec.type != codec.type:
            problem = codec_problem(card.codec, CodecIdentity(type=codec.type, fingerprint=""))
        if problem:
            found = unfit(address, problem)
            yield f"rewards.{name}.model: {found.message}", found.hint


def _architecture_problem(card: RewardCard, stage: StagePlan) -> str:
    ours = stage.stage.model.architecture.type
    theirs = card.architecture.type
    return "" if ours == theirs else f"is of architecture {theirs}, and the policy of {ours}"


def unfit(address: str, problem: str) -> PreflightError:
    """The error of a reward model that cannot read what the policy writes."""
    hint = "a reward model scores the policy's own tokens: train one from this policy (a reward_model stage)"
    return PreflightError(f"the reward model {address} {problem}", hint=hint)
