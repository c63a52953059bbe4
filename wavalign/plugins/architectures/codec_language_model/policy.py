"""The policy: hidden states for scoring and training, cached decoding for sampling."""

from collections.abc import Sequence
from typing import Literal, cast, final

import torch
from torch import Tensor, nn

from wavalign.plugins.api import DecodingState, Policy
from wavalign.plugins.architectures.attending import attending
from wavalign.plugins.architectures.codec_language_model.decoding import CodecLmDecodingState
from wavalign.plugins.architectures.codec_language_model.layout import CodecLmLayout
from wavalign.plugins.architectures.codec_language_model.network import Backbone
from wavalign.plugins.architectures.codec_language_model.sizes import CodecLmSizes
from wavalign.plugins.batch import TokenBatch, TokenSequence


@final
class CodecLmPolicy(Policy):
    """One trunk; a head of its own for every stream."""

    packs = True

    def __init__(self, sizes: CodecLmSizes, layout: CodecLmLayout) -> None:
        super().__init__()
        self.sizes, self.layout = sizes, layout
        self.model = Backbone(sizes, layout.blank)
        self.lm_head = None if sizes.tied else nn.Linear(sizes.hidden_size, sizes.vocabulary_size, bias=False)
        self.codebook_heads = nn.ModuleList(
            nn.Linear(sizes.hidden_size, sizes.vocabulary_size, bias=False) for _ in sizes.delays[1:]
        )

    def head_weight(self, head: int) -> nn.Parameter:
        """Projection [V, H] of stream `head`."""
        if not 0 <= head < len(self.sizes.delays):
            raise IndexError(f"head {head} of {len(self.sizes.delays)}")
        if head == 0:
            return cast(nn.Parameter, (self.model.embed_tokens if self.lm_head is None else self.lm_head).weight)
        return cast(nn.Parameter, self.codebook_heads[head - 1].weight)

    def hidden(self, batch: TokenBatch, heads: frozenset[int]) -> dict[int, Tensor]:
        """Hidden states [B, T, H], one for all heads."""
        states = self.model.embed(batch.ids)
        positions, mask = attending(batch, states)
        rotary = self.model.rotary_emb(states, positions)
        for layer in self.model.trunk():
            states = layer(states, position_embeddings=rotary, attention_mask=mask)
        normed: Tensor = self.model.norm(states)
        return dict.fromkeys(heads, normed)

    def decode(
        self, prompts: Sequence[TokenSequence], *, group_size: int, need: Literal["text", "all"]
    ) -> DecodingState:
        """Prefill `prompts` once each and stand ready to sample `group_size` answers to each."""
        state = CodecLmDecodingState(self.model, self.layout, prompts, need=need)
        state.keep(torch.arange(len(prompts), device=self.model.norm.weight.device).repeat_interleave(group_size))
        return state
