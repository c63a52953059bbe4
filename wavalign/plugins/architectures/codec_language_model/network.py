"""The modules of the network; the policy owns them under the names of the public checkpoints.

    x_t = E[s0_t] + sum over streams k > 0 of E[sk_t], blanks left out
    h   = norm(layers(x))
    p(s0_{t+1}) = softmax(W h_t),   p(sk_{t+1}) = softmax(W_k h_t)

With one stream this is a plain Llama or Qwen2 model. The ids of all codebooks lie in ranges of their own in one
vocabulary, so that one embedding serves all streams. Summed embeddings and one head per codebook as in MusicGen
(arXiv 2306.05284).
"""

from typing import Any, cast, final

from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RMSNorm, Qwen2RotaryEmbedding

from wavalign.plugins.architectures.codec_language_model.sizes import CodecLmSizes

_PARTS: dict[str, tuple[Any, Any, Any]] = {
    "llama": (LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding),
    "qwen2": (Qwen2DecoderLayer, Qwen2RMSNorm, Qwen2RotaryEmbedding),
}
"""Layer, norm and rotary embedding by trunk."""


@final
class Backbone(nn.Module):
    """Embedding, trunk and final norm: what the checkpoints call `model`."""

    def __init__(self, sizes: CodecLmSizes, blank: int) -> None:
        super().__init__()
        layer, norm, rotary = _PARTS[sizes.config.model_type]
        self.blank = blank
        self.embed_tokens = nn.Embedding(sizes.vocabulary_size, sizes.hidden_size)
        self.layers = nn.ModuleList(layer(sizes.config, index) for index in range(sizes.num_layers))
        self.norm = norm(sizes.hidden_size, eps=sizes.config.rms_norm_eps)
        self.rotary_emb = rotary(sizes.config)

    def trunk(self) -> list[Qwen2DecoderLayer | LlamaDecoderLayer]:
        """The decoder layers in order."""
        return [cast(Qwen2DecoderLayer | LlamaDecoderLayer, layer) for layer in self.layers]

    def embed(self, ids: Tensor) -> Tensor:
        """States [B, T, H] of `ids` [B, S, T] before the first layer."""
        embedded: Tensor = self.embed_tokens(ids)
        if ids.shape[1] == 1:
            return embedded[:, 0]
        spoken = ids != self.blank
        spoken[:, 0].fill_(True)
        return embedded.masked_fill(~spoken[..., None], 0.0).sum(dim=1)
