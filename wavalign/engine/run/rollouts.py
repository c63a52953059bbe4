"""Dialogues to rollouts: sampled, decoded to sound, or the gold answers in the same shape."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch

from wavalign.engine.run.feeding import Encoder
from wavalign.plugins.api import Architecture, Codec, Policy, Sampler, SamplingOptions
from wavalign.plugins.batch import Dialogue, Rollout, RolloutGroup


@final
@dataclass(frozen=True, slots=True)
class Roller:
    """Everything between a dialogue and its answers."""

    architecture: Architecture
    encoder: Encoder
    sampler: Sampler
    codec: Codec | None

    def sample(
        self, policy: Policy, dialogues: Sequence[Dialogue], options: SamplingOptions, generator: torch.Generator
    ) -> list[RolloutGroup]:
        """`options.group_size` answers per dialogue."""
        prompts = [(dialogue, self.encoder.prompt(dialogue)) for dialogue in dialogues]
        return self.sampler.sample(policy, self.architecture, prompts, options, generator)

    def gold(self, dialogues: Sequence[Dialogue]) -> list[RolloutGroup]:
        """Each target as if the policy had said it: what a metric can reach at most through these tokens."""
        return [self._gold(dialogue) for dialogue in dialogues if dialogue.target is not None]

    def with_sound(self, groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
        """The same groups with every answer's waveform; as they are where nothing can decode."""
        codec = self.codec
        if codec is None or not codec.can_decode:
            return list(groups)

        def decoded(rollout: Rollout) -> Rollout:
            return replace(rollout, waveform=codec.decode(rollout.answer.codes)) if rollout.answer.codes else rollout

        return [replace(group, rollouts=tuple(map(decoded, group.rollouts))) for group in groups]

    def _gold(self, dialogue: Dialogue) -> RolloutGroup:
        completion = self.encoder.target(dialogue)
        answer = self.architecture.decode_completion(completion)
        rollout = Rollout(completion, torch.zeros(completion.ids.shape), answer)
        return RolloutGroup(dialogue, self.encoder.prompt(dialogue), (rollout,))
