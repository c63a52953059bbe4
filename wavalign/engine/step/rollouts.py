"""Dialogues to rollouts: sampled, decoded to sound, or the gold answers in the same shape."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch

from wavalign.engine.feeding.feeds import Encoder
from wavalign.errors import PreflightError
from wavalign.plugins.api import Architecture, Codec, Nar, Policy, Sampler, SamplingOptions
from wavalign.plugins.batch import AudioClip, Dialogue, Rollout, RolloutGroup, TokenSpace

VOICE_PROMPT = "voice_prompt"
"""Where the metadata of a dialogue names sound in the voice that a nar is to imitate."""


@final
@dataclass(frozen=True, slots=True)
class Roller:
    """Everything between a dialogue and its answers."""

    architecture: Architecture
    encoder: Encoder
    sampler: Sampler
    codec: Codec | None
    nar: Nar | None = None

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

        def decoded(rollout: Rollout, dialogue: Dialogue) -> Rollout:
            if not rollout.answer.codes:
                return rollout
            whole = self._whole(rollout.answer.codes, dialogue, codec)
            with self.encoder.codec_lock:
                return replace(rollout, waveform=codec.decode(whole))

        return [
            replace(group, rollouts=tuple(decoded(rollout, group.dialogue) for rollout in group.rollouts))
            for group in groups
        ]

    def _whole(self, codes: Sequence[int], dialogue: Dialogue, codec: Codec) -> Sequence[int]:
        """Ids of whole frames, completed where the model wrote a part of every frame."""
        written, named = self.architecture.tokens.frame_codes, dialogue.metadata.get(VOICE_PROMPT)
        if self.nar is not None:
            return self.nar.complete(codes, prompt=() if named is None else self.encoder.codes(AudioClip(str(named))))
        if written is not None:
            raise nothing_completes(written, codec)
        return codes

    def _gold(self, dialogue: Dialogue) -> RolloutGroup:
        completion = self.encoder.target(dialogue)
        answer = self.architecture.decode_completion(completion)
        rollout = Rollout(completion, torch.zeros(completion.ids.shape), answer)
        return RolloutGroup(dialogue, self.encoder.prompt(dialogue), (rollout,))


def check_codes(tokens: TokenSpace, codec: Codec | None) -> None:
    """Raise PreflightError where the codec has more ids than the model has a place for.

    More places than ids are no error (a checkpoint may know more code books than are used), nor are fewer where a model
    writes a part of every frame.
    """
    if codec is not None and tokens.frame_codes is None and codec.num_codes > tokens.num_codes:
        raise PreflightError(
            f"the codec has {codec.num_codes} ids, and the model has a place for {tokens.num_codes}",
            hint=f"from random weights set model.architecture.num_codes: {codec.num_codes}; "
            "with a checkpoint take the codec, and as many of its code books, as it was trained with",
        )


def nothing_completes(written: int, codec: Codec) -> PreflightError:
    """The error of answers that hold `written` ids of every frame and are to be heard without a nar."""
    return PreflightError(
        f"answers hold {written} of {codec.codes_per_frame} ids a frame, and nothing completes them",
        hint="add model.nar, or let the architecture write all of them",
    )
