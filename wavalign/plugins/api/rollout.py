"""Sampling: what is drawn from which distribution, and who draws it."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, final

import torch

from wavalign.plugins.api.base import Plugin, Remembers
from wavalign.plugins.api.model import Architecture, Policy
from wavalign.plugins.batch import Dialogue, RolloutGroup, TokenSequence


@final
@dataclass(frozen=True, slots=True)
class Distribution:
    """What the ids of one stream are drawn from: penalised logits, divided by the temperature, top-k, then top-p."""

    temperature: float
    """0 takes the most likely token."""
    top_k: int
    """0 keeps every id."""
    top_p: float
    repetition_penalty: float = 1.0
    """Divides positive logits of ids said lately and multiplies negative ones; 1 does nothing."""
    repetition_window: int = 0
    """Newest ids of the stream's answer, forced ones among them, that count as said lately; no penalty before there
    are more."""


@final
@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """The distribution to sample from and how much of it."""

    group_size: int
    temperature: float
    """0 takes the most likely token."""
    top_k: int
    """0 keeps every id."""
    top_p: float
    max_new_tokens: int
    need: Literal["text", "all"] = "all"
    streams: Mapping[str, Distribution] = field(default_factory=dict)
    """By name, the distributions of streams that have one of their own."""

    def distribution(self, stream: str) -> Distribution:
        """What ids of `stream` are drawn from."""
        return self.streams.get(stream, Distribution(self.temperature, self.top_k, self.top_p))


class Sampler(Plugin):
    """Policy and prompts to rollouts."""

    kind = "sampler"

    def __init__(self, params: Any) -> None:
        self.params = params

    @abstractmethod
    def sample(
        self,
        policy: Policy,
        architecture: Architecture,
        prompts: Sequence[tuple[Dialogue, TokenSequence]],
        options: SamplingOptions,
        generator: torch.Generator,
    ) -> list[RolloutGroup]:
        """`options.group_size` answers to each prompt, with behaviour log-probs. Leaves the policy's mode as found."""


Sample = Callable[[Policy, Sequence[Dialogue], SamplingOptions, torch.Generator], list[RolloutGroup]]
"""Answers of a policy to dialogues: the stage's encoder and sampler."""


class Provider(Remembers):
    """Where rollouts come from. Runtime: `sample: Sample`. Every rank has one and calls it alike.

    In every step the engine calls `publish`, `submit` and `collect`, in this order, while the policy's parameters are
    whole. What is in flight between steps belongs to `state_dict`.
    """

    kind = "provider"
    own_network: ClassVar[bool]
    """Whether answers are made by the very weights that were published last, in the network that learns: their
    recorded log-probs then are the old ones. Otherwise those are computed anew, and a token counts by the ratio of the
    two, cut off at `rollout.importance_cap`."""

    def __init__(self, params: Any, *, sample: Sample) -> None:
        self.params, self.sample = params, sample

    @abstractmethod
    def publish(self, policy: Policy, *, version: int) -> None:
        """The weights after `version` updates; `policy` is live and changes later: copy what shall stay."""

    @abstractmethod
    def submit(self, prompts: Sequence[Dialogue], options: SamplingOptions, generator: torch.Generator) -> None:
        """Ask for `options.group_size` answers to each prompt, drawn by `generator`."""

    @abstractmethod
    def collect(self) -> list[RolloutGroup]:
        """Answers to a submission of prompts as many as in the last one, each with the version that made it."""

    def close(self) -> None:
        """Free what the provider holds; called once."""
        return
