"""Sampling with cached keys and values: one loop over `DecodingState` for every architecture.

    l     = W h; with a repetition penalty, l / penalty where l > 0 and l * penalty elsewhere, for ids said lately
    p(id) = softmax(l / temperature), restricted to the top-k, then the top-p ids, and normalised again
    id    = inverse of the cumulative p at u,   u = uniform of (call, dialogue, index in group, stream, step)

Every row draws from its own stream, so that neither the order of the batch nor other rows change an answer. One draw
from `generator` keys all streams of a call. Recorded log-probs are log p(id), 0 where the layout forced the id.
At temperature 0 the likeliest id has probability 1. Every stream has a distribution of its own. Ids said lately are the
newest of the stream's own answer, blanks of the layout among them and the prompt not: as in Kimi-Audio's sampler.
"""

from collections.abc import Sequence
from typing import final

import torch
from pydantic import Field

from wavalign.plugins.api import Architecture, Policy, Sampler, SamplingOptions
from wavalign.plugins.batch import Dialogue, RolloutGroup, TokenSequence
from wavalign.plugins.samplers.loop import HeadProjections, evaluation_mode, sample_rows, uniforms_of, unique_names
from wavalign.schema.base import Params

SEED_RANGE = 2**62


class KvCacheParams(Params):
    """How the batch is held; none of it changes what is sampled."""

    max_rows: int = Field(default=1024, ge=1, le=1 << 20)
    """Answers sampled at once; more prompts are taken in turns. A group is never split."""
    compact_below: float = Field(default=0.75, ge=0, le=1)
    """Drop finished rows once the live ones are less than this share of the batch."""


@final
class KvCache(Sampler):
    """Prompts to rollouts, one token a step and stream."""

    Params = KvCacheParams

    def sample(
        self,
        policy: Policy,
        architecture: Architecture,
        prompts: Sequence[tuple[Dialogue, TokenSequence]],
        options: SamplingOptions,
        generator: torch.Generator,
    ) -> list[RolloutGroup]:
        """Answers in the order of `prompts`; the policy is in eval mode meanwhile and left as it was found."""
        seed = int(torch.randint(SEED_RANGE, (1,), generator=generator, device=generator.device))
        names = unique_names([dialogue.id for dialogue, _ in prompts])
        shape = (len(architecture.tokens.streams), options.max_new_tokens)
        distributions = [options.distribution(stream) for stream in architecture.tokens.streams]
        at_once = max(1, self.params.max_rows // options.group_size)
        groups: list[RolloutGroup] = []
        with evaluation_mode(policy):
            for start in range(0, len(prompts), at_once):
                part = prompts[start : start + at_once]
                uniforms = uniforms_of(seed, names[start : start + at_once], options.group_size, shape)
                with torch.inference_mode():
                    state = policy.decode(
                        [prompt for _, prompt in part], group_size=options.group_size, need=options.need
                    )
                    record = sample_rows(
                        state, HeadProjections(policy), distributions, uniforms, compact_below=self.params.compact_below
                    )
                groups += record.groups(architecture, part, options.group_size)
        return groups
