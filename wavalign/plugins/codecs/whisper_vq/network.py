"""The network: two causal convolutions, Whisper encoder layers that see blocks, a mean over frames, the nearest code.

Module names are those of the public checkpoint. Source: GLM-4-Voice (arXiv 2412.02612), section 2.1.
"""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

from wavalign.plugins.codecs.whisper_vq.sizes import VqSizes

_KERNEL = 3
FRAME_STRIDE = 2
"""Mel frames in a frame of the layers."""


@final
class WhisperVq(nn.Module):
    """Mel frames to ids; no final norm stands before the code book."""

    def __init__(self, sizes: VqSizes) -> None:
        super().__init__()
        config = WhisperConfig(
            d_model=sizes.hidden,
            encoder_attention_heads=sizes.heads,
            encoder_ffn_dim=sizes.intermediate,
            dropout=0.0,
        )
        config._attn_implementation = "sdpa"
        self.sizes = sizes
        self.conv1 = nn.Conv1d(sizes.num_mels, sizes.hidden, _KERNEL)
        self.conv2 = nn.Conv1d(sizes.hidden, sizes.hidden, _KERNEL, stride=FRAME_STRIDE)
        self.embed_positions = nn.Embedding(sizes.positions, sizes.hidden)
        self.layers = nn.ModuleList(WhisperEncoderLayer(config) for _ in range(sizes.layers))
        self.codebook = nn.Embedding(sizes.num_codes, sizes.hidden)

    def ids(self, mel: Tensor, mask: Tensor) -> Tensor:
        """Ids [B, ceil(T / (2 * pooling))] of `mel` [B, M, T]; `mask` [B, T] is 1 where there is sound.

        Ids of a row hold for its first ceil(sum of mask / (2 * pooling)) places.
        """
        return self._nearest(self.points(mel, mask))

    def points(self, mel: Tensor, mask: Tensor) -> Tensor:
        """What is looked up in the code book, [B, ceil(T / (2 * pooling)), H]."""
        hidden = functional.gelu(self.conv1(_behind(mel)))
        hidden = functional.gelu(self.conv2(_behind(hidden))).transpose(1, 2)
        hidden = hidden + self.embed_positions.weight[: hidden.shape[1]]
        seen = self._seen(mask[:, ::FRAME_STRIDE].bool())
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=seen)
        return self._pooled(hidden)

    def _seen(self, mask: Tensor) -> Tensor:
        """Bool [B, 1, T, T]: key is sound, and of the query's block or an earlier one."""
        block = torch.arange(mask.shape[1], device=mask.device) // self.sizes.block
        return mask[:, None, None, :] & (block[:, None] >= block[None, :])

    def _pooled(self, hidden: Tensor) -> Tensor:
        """Mean of every `pooling` frames, [B, ceil(T / pooling), H]; frames missing at the end count as zeros."""
        missing = -hidden.shape[1] % self.sizes.pooling
        padded = functional.pad(hidden.transpose(1, 2), (0, missing))
        return functional.avg_pool1d(padded, self.sizes.pooling).transpose(1, 2)

    def _nearest(self, points: Tensor) -> Tensor:
        """Index [B, T] of the code with the smallest squared distance, in the family's own order of additions."""
        codes, flat = self.codebook.weight, points.flatten(0, 1)
        squares = codes.square().sum(dim=1) + flat.square().sum(dim=1, keepdim=True)
        return torch.addmm(squares, flat, codes.T, alpha=-2).argmin(dim=1).view(points.shape[:2])


def _behind(values: Tensor) -> Tensor:
    """`values` [B, C, T] with room before the start, so that a kernel sees the past alone."""
    return functional.pad(values, (_KERNEL - 1, 0))
