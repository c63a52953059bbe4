"""Decoder layers for decoding, their projections joined where they share an input.

    [q k v] = W_qkv n,   [gate up] = W_gu n',   n = w x / sqrt(mean(x^2) + eps)

On a CPU in float32 three more things are taken into the matrices, since there every operation costs more than its
arithmetic: w sqrt(H) is multiplied into the columns, so that a norm is x / hypot(|x|, sqrt(H eps)); outputs of q and k
are reordered so that the two halves of a rotary pair stand side by side, which makes a rotation one product of complex
numbers; and inputs of the output projection are in the order in which attention leaves them. Elsewhere matrices are
joined as they are, in the precision that the product has.

Copies are made for one sampling call, from weights that stay as they are meanwhile, and are read from the state's
buffers. Where a projection is more than a plain linear layer, such as one with an adapter, the modules themselves run.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import SiLUActivation

from wavalign.plugins.api import Buffers
from wavalign.plugins.architectures.cached_layers import AttentionInputs, attend, mix, norm, rotate, store

if TYPE_CHECKING:
    from wavalign.plugins.architectures.cached_layers import DecoderLayer, DecoderNorm


@final
class FusedLayers:
    """Layers as `attend` runs them, and norms behind them, over copies of their weights in `shared`."""

    def __init__(
        self, layers: "Sequence[DecoderLayer]", norms: "Sequence[DecoderNorm]", shared: Buffers, states: Tensor
    ) -> None:
        """`states` [..., H] have the type and the device of what goes from layer to layer."""
        self._layers, self._shared = layers, shared
        device = states.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
        self.kinds = tuple(_kind(layer, states, kind) for layer in layers)
        """Per layer how it runs: folded, joined or plain."""
        for index, (layer, how) in enumerate(zip(layers, self.kinds, strict=True)):
            if how == "folded":
                _fold(f"fused{index}.", layer, shared)
            elif how == "joined":
                _join(f"fused{index}.", layer, shared, kind)
        self._norms: dict[int, str] = {}
        if device == "cpu" and states.dtype == torch.float32:
            for index, module in enumerate(norms):
                self._norms[id(module)] = name = f"norm{index}."
                shared[f"{name}weight"], shared[f"{name}least"] = _norm_parts(module)

    @property
    def folded(self) -> bool:
        """Whether any layer rotates complex numbers."""
        return "folded" in self.kinds

    def attend(self, index: int, states: Tensor, cache: Tensor, inputs: AttentionInputs) -> Tensor:
        """Layer `index` over new `states` [B, N, H] with `cache` [B, 2, Hkv, slots, D]."""
        layer, name, how = self._layers[index], f"fused{index}.", self.kinds[index]
        if how == "folded":
            return _folded(layer, name, self._shared, states, (cache, inputs))
        if how == "joined":
            return _joined(layer, name, self._shared, states, (cache, inputs))
        return attend(layer, states, cache, inputs)

    def norm(self, module: "DecoderNorm", states: Tensor) -> Tensor:
        """What `module` gives for `states` [B, N, H], up to rounding."""
        name = self._norms.get(id(module))
        if name is None:
            return norm(module, states)
        return _direction(states, self._shared[f"{name}least"]).mul_(self._shared[f"{name}weight"])

    def turn(self, rows: Buffers) -> None:
        """Reorder keys that are cached already, as the folded layers have theirs."""
        for index, how in enumerate(self.kinds):
            if how == "folded":
                keys = rows[f"slots{index}"][:, 0]
                keys.copy_(keys.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2))


def _kind(layer: "DecoderLayer", states: Tensor, product: torch.dtype) -> str:
    """How `layer` can run where products are of type `product`."""
    attention, mlp = layer.self_attn, layer.mlp
    linear = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
    linear += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    if not all(_is_plain(module) for module in linear) or not isinstance(mlp.act_fn, (nn.SiLU, SiLUActivation)):
        return "plain"
    single = states.device.type == "cpu" and states.dtype == product == torch.float32
    bare = all(module.bias is None for module in linear[3:])
    same = all(module.weight.dtype == torch.float32 for module in linear)
    return "folded" if single and bare and same else "joined"


def _is_plain(module: nn.Module) -> bool:
    """Whether `module` is a product with its weight and nothing else."""
    return type(module) is nn.Linear and not (module._forward_hooks or module._forward_pre_hooks)


def _fold(name: str, layer: "DecoderLayer", shared: Buffers) -> None:
    """Copies of the weights of `layer`, norms and reordering taken in."""
    attention, mlp = layer.self_attn, layer.mlp
    size = attention.head_dim
    query, key, value = attention.q_proj, attention.k_proj, attention.v_proj
    joined = torch.cat([_turned(query.weight, size), _turned(key.weight, size), value.weight])
    shared[f"{name}qkv"] = _scaled(joined, layer.input_layernorm)
    if query.bias is not None:
        turned = [_turned(query.bias, size), _turned(key.bias, size), value.bias]
        shared[f"{name}bias"] = torch.cat(turned).detach()
    shared[f"{name}out"] = _regrouped(attention.o_proj.weight.detach(), attention.num_key_value_groups, size).t()
    joined = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
    shared[f"{name}gate_up"] = _scaled(joined, layer.post_attention_layernorm)
    shared[f"{name}down"] = mlp.down_proj.weight.detach().t()
    for place, module in (("before", layer.input_layernorm), ("between", layer.post_attention_layernorm)):
        shared[f"{name}{place}"] = _norm_parts(module)[1]


def _turned(weight: Tensor, size: int) -> Tensor:
    """Rows of `weight` [heads * D, ...] with the halves of each rotary pair side by side."""
    turned: Tensor = weight.unflatten(0, (-1, 2, size // 2)).transpose(1, 2).flatten(0, 2)
    return turned


def _regrouped(weight: Tensor, groups: int, size: int) -> Tensor:
    """`weight` [out, heads * D] for heads as attention leaves them: the first of every group, then the second ones."""
    regrouped: Tensor = weight.unflatten(1, (-1, groups, size)).transpose(1, 2).flatten(1)
    return regrouped


def _scaled(weight: Tensor, module: "DecoderNorm") -> Tensor:
    """`weight` [out, in] as [in, out], multiplied by what `_direction` leaves out of the norm."""
    return (weight * _norm_parts(module)[0]).detach().t()


def _norm_parts(module: "DecoderNorm") -> tuple[Tensor, Tensor]:
    """w sqrt(H) [H] and sqrt(H eps) [1]."""
    root = len(module.weight) ** 0.5
    weight = module.weight.detach().float() * root
    return weight, torch.full((1,), root * module.variance_epsilon**0.5, device=weight.device)


def _direction(states: Tensor, least: Tensor) -> Tensor:
    """x / hypot(|x|, least) of `states` [..., H]."""
    return states / torch.hypot(torch.linalg.vector_norm(states, dim=-1, keepdim=True), least)


def _folded(
    layer: "DecoderLayer", name: str, shared: Buffers, states: Tensor, cached: tuple[Tensor, AttentionInputs]
) -> Tensor:
    """One layer over new `states` [B, N, H], in float32 on a CPU."""
    (cache, inputs), attention = cached, layer.self_attn
    batch, new, width = states.shape
    size, kept = cache.shape[4], cache.shape[2]
    assert inputs.rotation is not None
    flat = states.view(-1, width)
    direction, weight, bias = _direction(flat, shared[name + "before"]), shared[name + "qkv"], shared.get(name + "bias")
    projected = torch.mm(direction, weight) if bias is None else torch.addmm(bias, direction, weight)
    queries = projected.shape[1] // size - 2 * kept
    heads = projected.view(batch * new, -1, size)
    turned = torch.view_as_complex(heads[:, : queries + kept].view(batch, new, queries + kept, size // 2, 2))
    turned.mul_(inputs.rotation)
    mix = _mix_one if new == 1 else _mix_several
    joined = mix(heads, cache, inputs, attention.scaling)
    flat = torch.addmm(flat, joined, shared[name + "out"])
    both = torch.mm(_direction(flat, shared[name + "between"]), shared[name + "gate_up"])
    middle = both.shape[1] // 2
    hidden = functional.silu(both[:, :middle], inplace=True).mul_(both[:, middle:])
    return torch.addmm(flat, hidden, shared[name + "down"]).view(batch, new, width)


def _mix_one(heads: Tensor, cache: Tensor, inputs: AttentionInputs, scaling: float) -> Tensor:
    """Store and attend for one new token a row: `heads` [B, heads + 2 Hkv, D] to [B, groups * Hkv * D]."""
    batch, _, kept, _, size = cache.shape
    queries, span = heads.shape[1] - 2 * kept, inputs.span
    pairs = heads[:, queries:].view(batch, 2, kept, size)
    if span.places is None:
        cache.select(3, span.first).copy_(pairs)
    else:
        cache.index_copy_(3, span.places, pairs.unsqueeze(3))
    keys, values = cache.narrow(3, 0, span.view).unbind(1)
    mixed = functional.scaled_dot_product_attention(
        heads[:, :queries].view(batch, kept, -1, size), keys, values, attn_mask=inputs.mask, scale=scaling
    )
    return mixed.transpose(1, 2).reshape(batch, -1)  # which is how it lies in memory


def _mix_several(heads: Tensor, cache: Tensor, inputs: AttentionInputs, scaling: float) -> Tensor:
    """Store and attend for N new tokens a row: `heads` [B * N, heads + 2 Hkv, D] to [B * N, groups * Hkv * D]."""
    batch, _, kept, _, size = cache.shape
    queries, span = heads.shape[1] - 2 * kept, inputs.span
    pairs = heads[:, queries:].view(batch, span.count, 2, kept, size).permute(0, 2, 3, 1, 4)
    if span.places is None:
        cache.narrow(3, span.first, span.count).copy_(pairs)
    else:
        cache.index_copy_(3, span.places, pairs)
    keys, values = cache.narrow(3, 0, span.view).unbind(1)
    query = heads[:, :queries].view(batch, span.count, kept, -1, size).permute(0, 2, 3, 1, 4)
    mixed = functional.scaled_dot_product_attention(
        query.flatten(2, 3), keys, values, attn_mask=inputs.mask, scale=scaling
    )
    return mixed.view(batch, kept, -1, span.count, size).permute(0, 3, 2, 1, 4).reshape(len(heads), -1)


def _join(name: str, layer: "DecoderLayer", shared: Buffers, kind: torch.dtype) -> None:
    """Copies of the weights of `layer`, joined and of type `kind`."""
    attention, mlp = layer.self_attn, layer.mlp
    parts = {
        "qkv": (attention.q_proj, attention.k_proj, attention.v_proj),
        "out": (attention.o_proj,),
        "gate_up": (mlp.gate_proj, mlp.up_proj),
        "down": (mlp.down_proj,),
    }
    for part, modules in parts.items():
        if len(modules) > 1 or modules[0].weight.dtype != kind:
            shared[f"{name}{part}"] = torch.cat([module.weight.to(kind) for module in modules]).detach()
        if any(module.bias is not None for module in modules):
            biases = [_bias(module, kind) for module in modules]
            shared[f"{name}{part}.bias"] = torch.cat(biases).detach()


def _bias(module: nn.Linear, kind: torch.dtype) -> Tensor:
    """The bias [out] of `module`, zeros where it has none."""
    return module.weight.new_zeros(len(module.weight), dtype=kind) if module.bias is None else module.bias.to(kind)


def _joined(
    layer: "DecoderLayer", name: str, shared: Buffers, states: Tensor, cached: tuple[Tensor, AttentionInputs]
) -> Tensor:
    """One layer over new `states` [B, N, H], products in the type of their copies."""
    (cache, inputs), attention = cached, layer.self_attn
    batch, new, _ = states.shape
    size, groups, kept = attention.head_dim, attention.num_key_value_groups, cache.shape[2]
    projected = _product(f"{name}qkv", attention.q_proj, shared, norm(layer.input_layernorm, states))
    heads = projected.view(batch, new, -1, size)
    query, key, value = heads.split((kept * groups, kept, kept), dim=2)
    together = torch.cat([query.unflatten(2, (kept, groups)), key.unsqueeze(3)], dim=3)
    rotated = rotate(together, inputs)
    store(cache, rotated[:, :, :, -1], value, inputs.span)
    joined = mix(rotated[:, :, :, :-1], cache, inputs, attention.scaling)
    states = states + _product(f"{name}out", attention.o_proj, shared, joined)
    normed = norm(layer.post_attention_layernorm, states)
    gate, up = _product(f"{name}gate_up", layer.mlp.gate_proj, shared, normed).chunk(2, dim=-1)
    return states + _product(f"{name}down", layer.mlp.down_proj, shared, functional.silu(gate) * up)


def _product(name: str, module: nn.Linear, shared: Buffers, states: Tensor) -> Tensor:
    """Product with the copy of that name, or with `module`'s own weight where no copy was needed."""
    copied, bias = shared.get(name), shared.get(f"{name}.bias")
    weight = module.weight if copied is None else copied
    with torch.autocast(states.device.type, enabled=False):
        return functional.linear(states.to(weight.dtype), weight, bias)
