"""Cached keys and values, and one decoder layer over them: what every family's decoding is made of."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm
    from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RMSNorm

    DecoderLayer = Qwen2DecoderLayer | LlamaDecoderLayer

SPARE_SLOTS = 64
"""Slots kept free beyond those in use."""
GROWTH = 1.25
"""By how much a full cache grows."""


@final
class LayerCache:
    """Keys and values [B, Hkv, slots, D] of one layer, in buffers that grow in steps."""

    __slots__ = ("keys", "length", "values")

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        device = keys.device.type
        if torch.is_autocast_enabled(device):  # as attention reads them, rather than converting all of them every step
            keys, values = (each.to(torch.get_autocast_dtype(device)) for each in (keys, values))
        self.keys, self.values, self.length = keys, values, 0

    def reserve(self, slots: int) -> None:
        """Make room for `slots` slots in all."""
        if slots <= self.keys.shape[2]:
            return
        room = max(slots + SPARE_SLOTS, int(slots * GROWTH))
        self.keys, self.values = self._grown(self.keys, room), self._grown(self.values, room)

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store new slots and return all filled ones."""
        start, new = self.length, keys.shape[2]
        self.reserve(start + new)
        self.length = start + new
        self.keys.narrow(2, start, new).copy_(keys)
        self.values.narrow(2, start, new).copy_(values)
        return self.keys.narrow(2, 0, self.length), self.values.narrow(2, 0, self.length)

    def select(self, rows: Tensor) -> None:
        """Keep or repeat `rows` (indices)."""
        self.keys, self.values = self.keys.index_select(0, rows), self.values.index_select(0, rows)

    def _grown(self, old: Tensor, room: int) -> Tensor:
        new = old.new_empty(old.shape[0], old.shape[1], room, old.shape[3])
        new[:, :, : self.length] = old[:, :, : self.length]
        return new


@final
@dataclass(frozen=True, slots=True)
class AttentionInputs:
    """Rotary embedding and mask of one pass over new slots."""

    cosine: Tensor
    """[B or 1, N, 1, 1, D]."""
    sine: Tensor
    """As `cosine`, its first half negated, so that rotation is one roll."""
    mask: Tensor | None
    """Added to scores [B or 1, 1, groups * N or 1, slots], -inf where hidden; None where every slot is visible."""


def attend(layer: "DecoderLayer", states: Tensor, cache: LayerCache, inputs: AttentionInputs) -> Tensor:
    """One decoder layer over new `states` [B, N, H] with `cache`; query heads that share a key become query rows."""
    attention = layer.self_attn
    normed = _norm(layer.input_layernorm, states)
    batch, new, _ = states.shape
    size = attention.head_dim
    query = attention.q_proj(normed).view(batch, new, -1, attention.num_key_value_groups, size)
    key = attention.k_proj(normed).view(batch, new, -1, 1, size)
    value = attention.v_proj(normed).view(batch, new, -1, size)
    rotated = rotate(torch.cat([query, key], dim=3), inputs)
    query, key = rotated[:, :, :, :-1], rotated[:, :, :, -1]
    keys, values = cache.append(key.transpose(1, 2), value.transpose(1, 2))
    rows = query.permute(0, 2, 3, 1, 4).flatten(2, 3)
    mixed = functional.scaled_dot_product_attention(rows, keys, values, attn_mask=inputs.mask, scale=attention.scaling)
    if new > 1:
        mixed = mixed.view(batch, query.shape[2], -1, new, size).permute(0, 3, 1, 2, 4)
    joined = mixed.reshape(batch, new, -1)
    states = states + attention.o_proj(joined)
    result: Tensor = states + layer.mlp(_norm(layer.post_attention_layernorm, states))
    return result


def _norm(norm: "Qwen2RMSNorm | LlamaRMSNorm", states: Tensor) -> Tensor:
    """What `norm` gives, as one operation instead of seven."""
    # A frozen norm may be held in bfloat16 beside float32 states; the fused operation wants one precision.
    weight = norm.weight.to(states.dtype)
    return functional.rms_norm(states, tuple(weight.shape), weight, norm.variance_epsilon)


def rotate(states: Tensor, inputs: AttentionInputs) -> Tensor:
    """Rotary position embedding of `states` [B, N, Hkv, groups, D]."""
    return torch.addcmul(states * inputs.cosine, states.roll(states.shape[-1] // 2, -1), inputs.sine)


@final
class PaddedSlots:
    """Cached keys and values of `layers` over left-padded rows, whose coming tokens stand side by side.

    Padding is hidden by a mask, and positions count from each row's first token.
    """

    def __init__(self, layers: "Sequence[DecoderLayer]", rotary: Any, lengths: Sequence[int], *, like: Tensor) -> None:
        """`rotary` gives cosine and sine of positions; `like` the type and the device of what is cached."""
        longest, attention = max(lengths), layers[0].self_attn
        self.padding = torch.tensor([longest - length for length in lengths], device=like.device)
        """[B], slots in front of each row."""
        self._layers, self._rotary, self._groups = layers, rotary, attention.num_key_value_groups
        self._padded = len(set(lengths)) > 1
        heads = attention.config.num_attention_heads // attention.num_key_value_groups
        shape = (len(lengths), heads, longest + SPARE_SLOTS, attention.head_dim)
        self._caches = [LayerCache(like.new_empty(shape), like.new_empty(shape)) for _ in layers]

    def filled(self, layer: int) -> int:
        """How many slots `layer` has seen."""
        return self._caches[layer].length

    def attention_inputs(self, states: Tensor, *, layer: int = 0, shift: int = 0) -> AttentionInputs:
        """Rotary embedding and mask for `states` [B, N, H] in the next slots of `layer`, `shift` tokens behind them."""
        first = self.filled(layer)
        slots = torch.arange(first + states.shape[1], device=states.device)
        new = slots[first:]
        positions = (new + shift if shift else new)[None]
        if self._padded:
            positions = (positions - self.padding[:, None]).clamp(min=0)
        cosine, sine = self._rotary(states, positions)
        half = sine.shape[-1] // 2
        sine = torch.cat([-sine[..., :half], sine[..., half:]], dim=-1)
        visible, mask = self._visible(slots, new), None
        if visible is not None:
            mask = torch.zeros_like(visible, dtype=states.dtype).masked_fill(~visible, -torch.inf)
        return AttentionInputs(cosine[:, :, None, None], sine[:, :, None, None], mask)

    def run(self, layers: Iterable[int], states: Tensor, inputs: AttentionInputs) -> Tensor:
        """Run `layers`, which have seen equally many slots, over new `states` [B, N, H]."""
        for index in layers:
            states = attend(self._layers[index], states, self._caches[index], inputs)
        return states

    def select(self, rows: Tensor) -> None:
        """Keep or repeat `rows` (indices)."""
        self.padding = self.padding[rows]
        for cache in self._caches:
            cache.select(rows)

    def _visible(self, slots: Tensor, new: Tensor) -> Tensor | None:
        """Which `slots` each of the `new` ones sees; a padding slot sees itself, so that no softmax is empty."""
        if len(new) == 1:
            return (slots >= self.padding[:, None])[:, None, None] if self._padded else None
        visible = (slots <= new[:, None])[None]
        if self._padded:
            visible = (visible & (slots >= self.padding[:, None, None])) | (slots == new[:, None])
        return visible[:, None].expand(-1, self._groups, -1, -1).flatten(1, 2)[:, None]
