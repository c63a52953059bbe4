"""Rollouts sampled in the process that learns, by its own weights, when they are collected."""

from collections.abc import Sequence
from dataclasses import replace
from typing import final

import torch

from wavalign.plugins.api import Policy, Provider, SamplingOptions
from wavalign.plugins.batch import Dialogue, RolloutGroup
from wavalign.schema.base import Params


@final
class InProcessParams(Params):
    """Nothing to choose."""


@final
class InProcess(Provider):
    """The simplest provider: nothing is in flight between steps."""

    Params = InProcessParams
    own_network = True

    def publish(self, policy: Policy, *, version: int) -> None:
        self._policy, self._version = policy, version

    def submit(self, prompts: Sequence[Dialogue], options: SamplingOptions, generator: torch.Generator) -> None:
        self._asked = (prompts, options, generator)

    def collect(self) -> list[RolloutGroup]:
        groups = self.sample(self._policy, *self._asked)
        return [
            replace(group, rollouts=tuple(replace(rollout, version=self._version) for rollout in group.rollouts))
            for group in groups
        ]
