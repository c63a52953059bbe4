"""Sampling: what is drawn from which distribution, and who draws it."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, final

import torch

from wavalign.plugins.api.base import Plugin
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
