"""The modules of the network; the policy owns them under the names of the public checkpoints.

    x_t    = E[audio_t] + E[text_t]
    x_t    = (E[audio_t] + adaptor(w_t)) sqrt(2) + E[text_t]     where a user is heard with features w
    shared = layers 0..b (x)
    text   = norm(layers b+1.. (shared))                         -> lm_head
    audio  = mimo_norm(mimo_layers(shared))                      -> mimo_output

Source: the Kimi-Audio report (arXiv 2504.18425) and its public checkpoints. The names of the two heads are easily
taken for one another: `lm_head` is the text head and `mimo_output` the audio head.
"""

from collections.abc import Iterable
from itertools import islice
from typing import cast, final

import torch
from torch import Tensor, nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RMSNorm, Qwen2RotaryEmbedding

from wavalign.plugins.architectures.kimi_audio.feature_positions import BatchFeatures
from wavalign.plugins.architectures.kimi_audio.layout import AUDIO, TEXT
from wavalign.plugins.architectures.kimi_audio.sizes import KimiSizes


@final
class FeatureAdaptor(nn.Module):
    """Features [N, D] to the width of the states [N, H]."""

    def __init__(self, sizes: KimiSizes) -> None:
        super().__init__()
        hidden = sizes.hidden_size
        self.layers = nn.Sequential(
            nn.Linear(sizes.feature_size, hidden),
            nn.SiLU(),
            nn.Identity(),  # the public code has dropout here, which would make a score differ from call to call
            nn.Linear(hidden, hidden),
            nn.LayerNorm(hidden, eps=sizes.rms_norm_eps),
        )

    def forward(self, features: Tensor) -> Tensor:
        """[N, D] -> [N, H]."""
        adapted: Tensor = self.layers(features)
        return adapted


@final
class Backbone(nn.Module):
    """Embedding, trunk, audio branch and feature adaptor: what the checkpoints call `model`."""

    def __init__(self, sizes: KimiSizes) -> None:
        super().__init__()
        config, trunk = sizes.transformers_config(), sizes.num_layers
        self.branch_layer = sizes.branch_layer
        self.embed_tokens = nn.Embedding(sizes.vocabulary_size, sizes.hidden_size)
        self.layers = nn.ModuleList(Qwen2DecoderLayer(config, index) for index in range(trunk))
        self.norm = Qwen2RMSNorm(sizes.hidden_size, eps=sizes.rms_norm_eps)
        self.mimo_layers = nn.ModuleList(
            Qwen2DecoderLayer(config, trunk + index) for index in range(sizes.num_audio_layers)
        )
        self.mimo_norm = Qwen2RMSNorm(sizes.hidden_size, eps=sizes.rms_norm_eps)
        self.vq_adaptor = FeatureAdaptor(sizes) if sizes.feature_size else None
        self.rotary_emb = Qwen2RotaryEmbedding(config)

    def shared_layers(self) -> list[Qwen2DecoderLayer]:
        """Trunk layers that both streams go through."""
        return _layers(islice(self.layers, self.branch_layer + 1))

    def text_layers(self) -> list[Qwen2DecoderLayer]:
        """Trunk layers of the text stream alone."""
        return _layers(islice(self.layers, self.branch_layer + 1, None))

    def audio_layers(self) -> list[Qwen2DecoderLayer]:
        """Layers of the audio branch."""
        return _layers(self.mimo_layers)

    def embed(self, ids: Tensor, heard: BatchFeatures | None) -> Tensor:
        """States [B, T, H] of `ids` [B, 2, T] before the first layer; raises ValueError where features do not fit."""
        text, audio = self.embed_tokens(ids[:, TEXT]), self.embed_tokens(ids[:, AUDIO])
        if heard is not None:
            audio = self._listen(audio, heard)
        states: Tensor = text + audio
        return states

    def _listen(self, audio: Tensor, heard: BatchFeatures) -> Tensor:
        """Add the features to the embedded audio stream [B, T, H]; the root of 2 keeps the variance."""
        if self.vq_adaptor is None:
            raise ValueError("this network takes no features")
        adapted = self.vq_adaptor(heard.values.to(self.norm.weight.dtype))[heard.source]
        mixed = (audio[heard.rows, heard.columns] + adapted) * 2**0.5
        return torch.index_put(audio, (heard.rows, heard.columns), mixed.to(audio.dtype))


def _layers(modules: Iterable[nn.Module]) -> list[Qwen2DecoderLayer]:
    return [cast(Qwen2DecoderLayer, module) for module in modules]
