"""The modules of the network; the policy owns them under the names of the public checkpoints.

With h^0 = norm(trunk(tokens)), multi-token-prediction (MTP) module k computes
    x_i = mtp_projs[k](cat[mtp_embed_norms[k](E[token_{i+k+1}]), mtp_hidden_norms[k](h^k_i)])
    h^{k+1} = norm(layer_{main + k}(x))
and h^{k+1}_i predicts token_{i+k+2}. All heads share the norm and the output projection.
Source: the VITA-Audio paper (arXiv 2505.03739) and its public checkpoints.
"""

from dataclasses import dataclass
from typing import cast, final

import torch
from torch import Tensor, nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RMSNorm, Qwen2RotaryEmbedding

from wavalign.plugins.architectures.vita_audio.sizes import VitaSizes


@final
class Backbone(nn.Module):
    """Embedding, trunk and MTP layers in one list, final norm: what the checkpoints call `model`."""

    def __init__(self, sizes: VitaSizes) -> None:
        super().__init__()
        config = sizes.transformers_config()
        self.embed_tokens = nn.Embedding(sizes.vocabulary_size, sizes.hidden_size)
        self.layers = nn.ModuleList(
            Qwen2DecoderLayer(config, index) for index in range(sizes.num_layers + sizes.num_mtp_layers)
        )
        self.norm = Qwen2RMSNorm(sizes.hidden_size, eps=sizes.rms_norm_eps)
        self.rotary_emb = Qwen2RotaryEmbedding(config)

    def layer(self, index: int) -> Qwen2DecoderLayer:
        """Layer `index`, MTP layers behind the trunk's."""
        return cast(Qwen2DecoderLayer, self.layers[index])


@final
@dataclass(frozen=True, slots=True)
class VitaNetwork:
    """A view of a policy's modules, shared by training and decoding."""

    sizes: VitaSizes
    model: Backbone
    mtp_projs: nn.ModuleList
    mtp_embed_norms: nn.ModuleList
    mtp_hidden_norms: nn.ModuleList

    def mtp_input(self, module: int, embedded: Tensor, states: Tensor) -> Tensor:
        """Input [B, N, H] of MTP layer `module` from the tokens it is told and the previous head's states."""
        told = self.mtp_embed_norms[module](embedded)
        seen = self.mtp_hidden_norms[module](states)
        mixed: Tensor = self.mtp_projs[module](torch.cat([told, seen], dim=-1))
        return mixed
