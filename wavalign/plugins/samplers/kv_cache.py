"""Sampling with cached keys and values: one loop over `DecodingState` for every architecture.

    l     = W h; with a repetition penalty, l / penalty where l > 0 and l * penalty elsewhere, for ids said lately
    p(id) = softmax(l / temperature), restricted to the top-k, then the top-p ids, and normalised again
    id    = inverse of the cumulative p at u,   u = uniform of (call, dialogue, index in group, stream, step)

Every row draws from its own stream, so that neither the order of the batch nor other rows change an answer. One draw
from `generator` keys all streams of a call. Recorded log-probs are log p(id), 0 where the layout forced the id.
At temperature 0 the likeliest id has probability 1. Every stream has a distribution of its own. Ids said lately are the
newest of the stream's own answer, blanks of the layout among them and the prompt not: as in Kimi-Audio's sampler.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from pydantic import Field
from torch import Tensor

from wavalign.plugins.api import Architecture, DecodingState, Policy, Sampler, SamplingOptions, StaticDecodingState
from wavalign.plugins.batch import Dialogue, RolloutGroup, TokenSequence, TokenSpace
from wavalign.plugins.samplers.batch import Batch, StreamDrawer
from wavalign.plugins.samplers.heads import HeadProjections
from wavalign.plugins.samplers.loop import PlainSteps, evaluation_mode, sample_rows, uniforms_of, unique_names
from wavalign.plugins.samplers.recorded import NO_BUCKETS, Buckets, BucketSteps, Places, buckets_for
from wavalign.plugins.samplers.transcript import Transcript
from wavalign.schema.base import Params

SEED_RANGE = 2**62
FUSED_FROM = 8
"""Tokens to be sampled that make joined matrices worth their copies."""


class KvCacheParams(Params):
    """How the batch is held and run. What is sampled depends on none of it but, by rounding, `fuse_projections`."""

    max_rows: int = Field(default=1024, ge=1, le=1 << 20)
    """Answers sampled at once; more prompts are taken in turns. A group is never split."""
    compact_below: float = Field(default=0.75, ge=0, le=1)
    """Drop finished rows once the live ones are less than this share of the batch."""
    fuse_projections: bool = True
    """Join matrices that share an input, in copies that live for one call: for that long, up to the layers' weights
    once more."""
    cuda_graphs: bool = True
    """On CUDA, record a step once and replay it; where it cannot be, each operation is launched from Python."""
    keep_mib: int = Field(default=1024, ge=0, le=1 << 20)
    """What was recorded stays for the next call as long as it and its tensors take no more than so many MiB."""


@final
class KvCache(Sampler):
    """Prompts to rollouts, one token a step and stream."""

    Params = KvCacheParams

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self._places = Places(params.keep_mib << 20)

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
        at_once = max(1, self.params.max_rows // options.group_size)
        groups: list[RolloutGroup] = []
        with evaluation_mode(policy):
            for start in range(0, len(prompts), at_once):
                part = prompts[start : start + at_once]
                uniforms = uniforms_of(seed, names[start : start + at_once], options.group_size, shape)
                with torch.inference_mode():
                    call = Call(policy, [prompt for _, prompt in part], options, uniforms, architecture.tokens)
                    transcript = self._written(call)
                groups += transcript.groups(architecture, part, options.group_size)
        return groups

    def _written(self, call: "Call") -> Transcript:
        """What is sampled in `call`."""
        device, steps = call.policy.head_weight(0).device, call.uniforms.shape[2]
        fuse = self.params.fuse_projections and steps >= FUSED_FROM
        buckets = buckets_for(device, record=self.params.cuda_graphs)
        with buckets.context():
            state = call.state()
            if not isinstance(state, StaticDecodingState):
                batch = call.batch(state, NO_BUCKETS, fuse=fuse)
                sample_rows(batch, PlainSteps(buckets.every), steps, compact_below=self.params.compact_below)
                return batch.transcript
            if fuse:
                state.fuse()
            state.settle(steps, slots=buckets.slots)
            batch = call.batch(state, buckets, fuse=fuse)
            if buckets.slots == 1:
                sample_rows(batch, PlainSteps(buckets.every), steps, compact_below=self.params.compact_below)
                return batch.transcript
            stepping = BucketSteps(self._places, buckets, key=call.weights())
            sample_rows(batch, stepping, steps, compact_below=self.params.compact_below)
            stepping.close()
            return batch.transcript


@final
@dataclass(frozen=True, slots=True)
class Call:
    """What is asked for at once."""

    policy: Policy
    prompts: Sequence[TokenSequence]
    options: SamplingOptions
    uniforms: Tensor
    """[B, S, T]."""
    tokens: TokenSpace

    def state(self) -> DecodingState:
        """The state behind the prompts."""
        return self.policy.decode(self.prompts, group_size=self.options.group_size, need=self.options.need)

    def batch(self, state: DecodingState, buckets: Buckets, *, fuse: bool) -> Batch:
        """The batch that begins with `state`."""
        distributions = [self.options.distribution(stream) for stream in self.tokens.streams]
        drawers = [StreamDrawer(stream, each, most=buckets.most) for stream, each in enumerate(distributions)]
        window = buckets.every if buckets.slots > 1 else 0
        width = max(drawer.drawer.width for drawer in drawers)
        transcript = Transcript(self.uniforms, device=state.finished().device, window=window, width=width)
        return Batch(state, HeadProjections(self.policy, len(self.tokens.heads), fused=fuse), drawers, transcript)

    def weights(self) -> Hashable:
        """Where the weights lie, in which precision they are used, and what modules are told, such as adapters off."""
        device = self.policy.head_weight(0).device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        told = [value for module in self.policy.modules() for value in vars(module).values() if isinstance(value, bool)]
        return precision, tuple(told), tuple((each.data_ptr(), each.dtype) for each in self.policy.parameters())
