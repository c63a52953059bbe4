"""The modules of the network; the policy owns them under the names of the public checkpoints.

With h^0 = norm(trunk(tokens)), multi-token-prediction (MTP) module k computes
    x_i = mtp_projs[k](cat[mtp_embed_norms[k](E[token_{i+k+1}]), mtp_hidden_norms[k](h^k_i)])
    h^{k+1} = norm(layer_{main + k}(x))
and h^{k+1}_i predicts token_{i+k+2}. All heads share the norm and the output projection.
Where user sound is heard as features, what the encoder makes of them stands in the trunk's input in the place of the
embeddings of `<|context_of_audio|>`; the modules are told that token's own embedding, as in the public code.
Source: the VITA-Audio paper (arXiv 2505.03739) and its public checkpoints.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, final

import torch
from torch import Tensor, nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RMSNorm, Qwen2RotaryEmbedding

from wavalign.plugins.architectures.vita_audio.encoder import QUERIES, AudioModel, AudioProjection
from wavalign.plugins.architectures.vita_audio.features import FEATURE_SIZE
from wavalign.plugins.architectures.vita_audio.sizes import VitaSizes
from wavalign.plugins.batch import SoundSegment


@final
class Backbone(nn.Module):
    """Embedding, trunk and MTP layers in one list, final norm, encoder: what the checkpoints call `model`."""

    def __init__(self, sizes: VitaSizes) -> None:
        super().__init__()
        config = sizes.transformers_config()
        self.embed_tokens = nn.Embedding(sizes.vocabulary_size, sizes.hidden_size)
        self.layers = nn.ModuleList(
            Qwen2DecoderLayer(config, index) for index in range(sizes.num_layers + sizes.num_mtp_layers)
        )
        self.norm = Qwen2RMSNorm(sizes.hidden_size, eps=sizes.rms_norm_eps)
        self.rotary_emb = Qwen2RotaryEmbedding(config)
        encoder = sizes.encoder
        self.audio_model = None if encoder is None else AudioModel(encoder)
        self.audio_projection = None if encoder is None else AudioProjection(encoder, sizes.hidden_size)

    def layer(self, index: int) -> Qwen2DecoderLayer:
        """Layer `index`, MTP layers behind the trunk's."""
        return cast(Qwen2DecoderLayer, self.layers[index])

    def with_sounds(
        self, embedded: Tensor, sounds: Sequence[Sequence[SoundSegment]], offsets: Sequence[int] | None = None
    ) -> Tensor:
        """Embeddings [B, T, H] with `sounds` (per row, or none at all) put over `embedded` where they stand.

        Row i begins at `offsets[i]`, or at 0. Raises ValueError for sounds this network cannot hear.

        With gradients, a batch without sound walks through the encoder too and adds nothing: where parameters are
        partitioned or gradients reduced over ranks, every rank must come by the same modules.
        """
        placed = [
            (row, segment.start + (0 if offsets is None else offsets[row]), segment)
            for row, segments in enumerate(sounds)
            for segment in segments
        ]
        if self.audio_model is None or self.audio_projection is None:
            if placed:
                raise ValueError("this network has no encoder to hear sounds with")
            return embedded
        if not placed:
            if not torch.is_grad_enabled():
                return embedded
            silence = embedded.new_ones(1, FEATURE_SIZE)
            unheard: Tensor = self.audio_projection(self.audio_model([silence])).mean().to(embedded.dtype)
            return embedded + 0 * unheard
        if any(segment.length != len(segment.values) + len(QUERIES) for _, _, segment in placed):
            raise ValueError(f"a sound fills {len(QUERIES)} positions more than it has features")
        # The answers to one prompt share its segments: encode each once.
        distinct = {id(segment.values): segment.values for _, _, segment in placed}
        states = self.audio_projection(self.audio_model([each.to(embedded.device) for each in distinct.values()]))
        heard = dict(zip(distinct, states.to(embedded.dtype), strict=True))
        rows = torch.cat([torch.full((segment.length,), row) for row, _, segment in placed])
        places = torch.cat([torch.arange(start, start + segment.length) for _, start, segment in placed])
        values = torch.cat([heard[id(segment.values)][: segment.length] for _, _, segment in placed])
        return embedded.index_put((rows.to(embedded.device), places.to(embedded.device)), values)


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
        """Input [B, N, H] of MTP layer `module` from its input tokens and the previous head's states."""
        told = self.mtp_embed_norms[module](embedded)
        seen = self.mtp_hidden_norms[module](states)
        mixed: Tensor = self.mtp_projs[module](torch.cat([told, seen], dim=-1))
        return mixed
