"""One decoder layer over new tokens, and the cached keys and values of those before them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import SiLUActivation

if TYPE_CHECKING:
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm
    from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RMSNorm

    DecoderLayer = Qwen2DecoderLayer | LlamaDecoderLayer
    DecoderNorm = Qwen2RMSNorm | LlamaRMSNorm


@final
@dataclass(frozen=True, slots=True)
class Span:
    """The slots that new tokens take, and what attention looks at."""

    first: int
    count: int
    view: int
    """Attention looks at the first so many slots."""
    places: Tensor | None
    """[count] the slots, where Python's own count would be out of date in a recorded step."""


@final
@dataclass(frozen=True, slots=True)
class AttentionInputs:
    """Slots, rotary embedding and mask of one pass over new slots."""

    span: Span
    cosine: Tensor
    """[B or 1, N, 1, 1, D]."""
    sine: Tensor
    """As `cosine`, its first half negated, so that rotation is one roll."""
    mask: Tensor | None
    """Added to scores [B or 1, 1, groups * N or 1, slots], -inf where hidden; None where every slot is visible."""
    rotation: Tensor | None
    """[B or 1, N, 1, D / 2], the rotation as complex numbers, for layers that are folded."""


def attend(layer: "DecoderLayer", states: Tensor, cache: Tensor, inputs: AttentionInputs) -> Tensor:
    """One decoder layer over new `states` [B, N, H] with `cache` [B, 2, Hkv, slots, D]."""
    attention = layer.self_attn
    normed = norm(layer.input_layernorm, states)
    batch, new, _ = states.shape
    size = attention.head_dim
    query = attention.q_proj(normed).view(batch, new, -1, attention.num_key_value_groups, size)
    key = attention.k_proj(normed).view(batch, new, -1, 1, size)
    value = attention.v_proj(normed).view(batch, new, -1, size)
    rotated = rotate(torch.cat([query, key], dim=3), inputs)
    query, key = rotated[:, :, :, :-1], rotated[:, :, :, -1]
    store(cache, key, value, inputs.span)
    joined = mix(query, cache, inputs, attention.scaling)
    states = states + attention.o_proj(joined)
    return states + gated(layer, norm(layer.post_attention_layernorm, states))


def gated(layer: "DecoderLayer", states: Tensor) -> Tensor:
    """What the MLP of `layer` gives for `states` [B, N, H], its products of the prompts changed in place.

    For many prompts these are the largest tensors there are, and new memory comes slowly.
    """
    mlp = layer.mlp
    gate, up = mlp.gate_proj(states), mlp.up_proj(states)
    in_place = not gate.requires_grad and gate.dtype == up.dtype and isinstance(mlp.act_fn, nn.SiLU | SiLUActivation)
    middle = functional.silu(gate, inplace=True).mul_(up) if in_place else mlp.act_fn(gate) * up
    result: Tensor = mlp.down_proj(middle)
    return result


def store(cache: Tensor, keys: Tensor, values: Tensor, span: Span) -> None:
    """Put new `keys` and `values` [B, N, Hkv, D] into `cache` [B, 2, Hkv, slots, D]."""
    if span.places is None:
        cache[:, 0].narrow(2, span.first, span.count).copy_(keys.transpose(1, 2))
        cache[:, 1].narrow(2, span.first, span.count).copy_(values.transpose(1, 2))
    else:
        cache.index_copy_(3, span.places, torch.stack([keys, values], dim=1).transpose(2, 3).to(cache.dtype))


def mix(query: Tensor, cache: Tensor, inputs: AttentionInputs, scaling: float) -> Tensor:
    """Attention of `query` [B, N, Hkv, groups, D] over `cache`: [B, N, heads * D].

    Query heads that share a key become query rows.
    """
    batch, new, heads, _, size = query.shape
    seen = cache.narrow(3, 0, inputs.span.view)
    rows = query.permute(0, 2, 3, 1, 4).flatten(2, 3)
    mixed = functional.scaled_dot_product_attention(rows, seen[:, 0], seen[:, 1], attn_mask=inputs.mask, scale=scaling)
    if new > 1:
        mixed = mixed.view(batch, heads, -1, new, size).permute(0, 3, 1, 2, 4)
    return mixed.reshape(batch, new, -1)


def norm(module: "DecoderNorm", states: Tensor) -> Tensor:
    """What `module` gives, as one operation instead of seven."""
    # A frozen norm may be held in bfloat16 beside float32 states; the fused operation wants one precision.
    weight = module.weight.to(states.dtype)
    return functional.rms_norm(states, tuple(weight.shape), weight, module.variance_epsilon)


def rotate(states: Tensor, inputs: AttentionInputs) -> Tensor:
    """Rotary position embedding of `states` [B, N, Hkv, groups, D]."""
    return torch.addcmul(states * inputs.cosine, states.roll(states.shape[-1] // 2, -1), inputs.sine)
