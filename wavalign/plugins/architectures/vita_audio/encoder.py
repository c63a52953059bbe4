"""The audio encoder of the Plus checkpoints and what projects it into the trunk, under the public names.

With x the query vectors and the features, times sqrt(D), plus sinusoids that count from 1, every block computes
    y = A(n1(x)) + v + conv(v),   v = values of n1(x), 0 at padding,   conv over 11 frames of each channel
    x = x + y (y alone in the first block, where the widths differ),   x = x + W2 relu(W1 n2(x))
where A is self-attention over all frames. Two closing norms: after the main and after the late blocks.
Source: SenseVoiceSmall of FunAudioLLM (arXiv 2407.04051), whose attention with memory is SAN-M (arXiv 2006.01713).
"""

import math
from collections.abc import Sequence
from typing import Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from wavalign.plugins.architectures.vita_audio.encoder_sizes import EncoderSizes
from wavalign.plugins.architectures.vita_audio.features import FEATURE_SIZE

NUM_QUERIES_KNOWN: Final = 16
QUERIES: Final = (0, 1, 2, 15)
"""Rows of the query table before the features: any language, event, emotion, text without inverse normalisation."""
LONGEST_PERIOD: Final = 10_000.0


@final
class MemoryAttention(nn.Module):
    """Self-attention with a memory of neighbouring values (SAN-M)."""

    def __init__(self, sizes: EncoderSizes, input_size: int) -> None:
        super().__init__()
        self.num_heads, width = sizes.num_heads, sizes.hidden_size
        self.linear_q_k_v = nn.Linear(input_size, 3 * width)
        self.linear_out = nn.Linear(width, width)
        self.fsmn_block = nn.Conv1d(
            width, width, sizes.kernel_size, padding=sizes.kernel_size // 2, groups=width, bias=False
        )

    def forward(self, states: Tensor, real: Tensor) -> Tensor:
        """New states [B, N, D] of `states` [B, N, D']; `real` [B, N] is False at padding."""
        queries, keys, values = self.linear_q_k_v(states).chunk(3, dim=-1)
        kept = values * real[..., None]
        memory = kept + self.fsmn_block(kept.transpose(1, 2)).transpose(1, 2)
        query, key, value = (
            each.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for each in (queries, keys, values)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=real[:, None, None])
        attended: Tensor = self.linear_out(mixed.transpose(1, 2).flatten(2)) + memory
        return attended


@final
class FeedForward(nn.Module):
    """Two layers with a ReLU between them."""

    def __init__(self, sizes: EncoderSizes) -> None:
        super().__init__()
        self.w_1 = nn.Linear(sizes.hidden_size, sizes.intermediate_size)
        self.w_2 = nn.Linear(sizes.intermediate_size, sizes.hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        """Same shape as `states`."""
        result: Tensor = self.w_2(functional.relu(self.w_1(states)))
        return result


@final
class Block(nn.Module):
    """Attention and feed-forward, each behind its norm."""

    def __init__(self, sizes: EncoderSizes, input_size: int) -> None:
        super().__init__()
        self.self_attn = MemoryAttention(sizes, input_size)
        self.feed_forward = FeedForward(sizes)
        self.norm1 = nn.LayerNorm(input_size)
        self.norm2 = nn.LayerNorm(sizes.hidden_size)

    def forward(self, states: Tensor, real: Tensor) -> Tensor:
        """New states [B, N, D]; `real` [B, N] is False at padding."""
        attended = self.self_attn(self.norm1(states), real)
        if states.shape[-1] == attended.shape[-1]:
            attended = states + attended
        result: Tensor = attended + self.feed_forward(self.norm2(attended))
        return result


@final
class BlockStack(nn.Module):
    """All blocks with their closing norms."""

    def __init__(self, sizes: EncoderSizes) -> None:
        super().__init__()
        width = sizes.hidden_size
        self.encoders0 = nn.ModuleList([Block(sizes, FEATURE_SIZE)])
        self.encoders = nn.ModuleList(Block(sizes, width) for _ in range(sizes.num_blocks - 1))
        self.tp_encoders = nn.ModuleList(Block(sizes, width) for _ in range(sizes.num_late_blocks))
        self.after_norm = nn.LayerNorm(width)
        self.tp_norm = nn.LayerNorm(width)
        self._scale = math.sqrt(width)

    def forward(self, inputs: Tensor, real: Tensor) -> Tensor:
        """States [B, N, D] of `inputs` [B, N, 560]; `real` [B, N] is False at padding."""
        states = inputs * self._scale + sinusoids(inputs)
        for block in (*self.encoders0, *self.encoders):
            states = block(states, real)
        states = self.after_norm(states)
        for block in self.tp_encoders:
            states = block(states, real)
        result: Tensor = self.tp_norm(states)
        return result


@final
class RecogniserHead(nn.Module):
    """The encoder's own output layer: stored with it, used by nobody here, so never trained."""

    def __init__(self, sizes: EncoderSizes) -> None:
        super().__init__()
        self.ctc_lo = nn.Linear(sizes.hidden_size, sizes.vocabulary_size)
        self.requires_grad_(False)  # it gets no gradient, and weight decay alone would shrink it


@final
class SenseVoice(nn.Module):
    """Queries in front of the features, then the blocks."""

    def __init__(self, sizes: EncoderSizes) -> None:
        super().__init__()
        self.embed = nn.Embedding(NUM_QUERIES_KNOWN, FEATURE_SIZE)
        self.encoder = BlockStack(sizes)
        self.ctc = RecogniserHead(sizes)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """States [B, 4 + N, D] of right-padded `features` [B, N, 560] with `lengths` [B]; no dropout in any mode."""
        queries = self.embed(torch.tensor(QUERIES, device=features.device))
        inputs = torch.cat([queries.expand(len(features), -1, -1), features.to(queries.dtype)], dim=1)
        real = torch.arange(inputs.shape[1], device=inputs.device) < (lengths + len(QUERIES))[:, None]
        states: Tensor = self.encoder(inputs, real)
        return states


@final
class AudioModel(nn.Module):
    """The name that the public checkpoints put around the encoder."""

    def __init__(self, sizes: EncoderSizes) -> None:
        super().__init__()
        self.model = SenseVoice(sizes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """States [B, 4 + N, D] of B sounds with features [N_i, 560] each, padded to the longest.

        Computed without gradient where no parameter of the encoder is trained.
        """
        trained = any(parameter.requires_grad for parameter in self.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            lengths = torch.tensor([len(each) for each in features], device=features[0].device)
            states: Tensor = self.model(pad_sequence(list(features), batch_first=True), lengths)
        return states


@final
class AudioProjection(nn.Module):
    """Encoder states to embeddings of the trunk."""

    def __init__(self, sizes: EncoderSizes, hidden_size: int) -> None:
        super().__init__()
        self.pre_proj_layernorm = nn.LayerNorm(sizes.hidden_size)
        self.mlp = nn.Sequential(
            nn.Linear(sizes.hidden_size, hidden_size, bias=False),
            nn.GELU(),
            nn.Linear(hidden_size, hidden_size, bias=False),
        )

    def forward(self, states: Tensor) -> Tensor:
        """Embeddings [..., H] of `states` [..., D]."""
        result: Tensor = self.mlp(self.pre_proj_layernorm(states))
        return result


def sinusoids(states: Tensor) -> Tensor:
    """Position codes [N, D] for `states` [B, N, D]: sines, then cosines; computed in float32 or better."""
    length, width = states.shape[-2:]
    precise = torch.promote_types(states.dtype, torch.float32)
    steps = torch.arange(width // 2, device=states.device, dtype=precise)
    rates = torch.exp(steps * (-math.log(LONGEST_PERIOD) / (width / 2 - 1)))
    angles = torch.arange(1, length + 1, device=states.device, dtype=precise)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(states.dtype)
