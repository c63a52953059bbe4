"""Cached keys and values of a batch of rows: what every family's decoding is made of."""

from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from wavalign.plugins.api import Buffers
from wavalign.plugins.architectures.cached_layers import AttentionInputs, Span, attend
from wavalign.plugins.architectures.fused_layers import FusedLayers

if TYPE_CHECKING:
    from wavalign.plugins.architectures.cached_layers import DecoderLayer, DecoderNorm

SPARE_SLOTS = 64
"""Slots kept free beyond those in use, where nobody said how many tokens are to come."""
GROWTH = 1.25
"""By how much a full cache grows then."""


@final
class PaddedSlots:
    """Cached keys and values of `layers` over left-padded rows, whose coming tokens stand side by side.

    Padding is hidden by a mask, and positions count from each row's first token. The tensors lie in the buffers of a
    decoding state: `slots<layer>` [B, 2, Hkv, slots, D], `padding` [B], the slots in front of each row, and `known`
    [1], how many tokens there are, kept up to date only where a step's places come from tensors.
    """

    def __init__(
        self,
        layers: "Sequence[DecoderLayer]",
        rotary: Any,
        lengths: Sequence[int],
        *,
        like: Tensor,
        rows: Buffers,
        shared: Buffers,
    ) -> None:
        """`rotary` gives cosine and sine of positions; `like` the type and the device of what is cached."""
        longest, attention, device = max(lengths), layers[0].self_attn, like.device
        self.rows, self.shared, self.granularity = rows, shared, 1
        self._layers, self._rotary, self._groups = layers, rotary, attention.num_key_value_groups
        self._padded, self._settled, self._shifts = len(set(lengths)) > 1, False, 0
        self._fused: FusedLayers | None = None
        heads = attention.config.num_attention_heads // attention.num_key_value_groups
        dtype = like.dtype
        if torch.is_autocast_enabled(device.type):  # as attention reads them, rather than converting all every step
            dtype = torch.get_autocast_dtype(device.type)
        shape = (len(lengths), 2, heads, longest + SPARE_SLOTS, attention.head_dim)
        for index in range(len(layers)):
            rows[f"slots{index}"] = torch.zeros(shape, dtype=dtype, device=device)
        rows["padding"] = torch.tensor([longest - length for length in lengths], device=device)
        shared["known"] = torch.tensor([longest], device=device)

    @property
    def layers(self) -> "Sequence[DecoderLayer]":
        """The decoder layers in the order of their caches."""
        return self._layers

    @property
    def room(self) -> int:
        """Slots of every cache."""
        return self.rows["slots0"].shape[3]

    @property
    def settled(self) -> bool:
        """Whether there is room for all that is to come."""
        return self._settled

    def settle(self, slots: int, granularity: int, *, shift: int = 0) -> None:
        """Make caches of just `slots` slots; with `granularity` above 1, steps know places from tensors alone.

        `shift`: the furthest that tokens stand behind their slots.
        """
        room = -(-slots // granularity) * granularity
        self._resize(room)
        self.granularity, self._settled, self._shifts = granularity, True, max(shift, self._shifts)
        if len(self.shared["cosine"]) < room + self._shifts:
            self._make_tables(self.shared["cosine"], room)
        if self._padded:
            hidden = torch.arange(room, device=self.rows["padding"].device) < self.rows["padding"][:, None]
            kind = self.shared["cosine"].dtype
            self.rows["padding_mask"] = torch.zeros_like(hidden, dtype=kind).masked_fill(hidden, -torch.inf)

    def fuse(self, norms: "Sequence[DecoderNorm]", states: Tensor) -> None:
        """Run joined copies of the layers from now on, and of `norms`; `states` [..., H] are what goes through them."""
        self._fused = FusedLayers(self._layers, norms, self.shared, states)
        self._fused.turn(self.rows)
        self._make_rotation()

    def norm(self, module: "DecoderNorm", states: Tensor) -> Tensor:
        """What `module` gives for `states` [B, N, H]."""
        if self._fused is None:
            normed: Tensor = module(states)
            return normed
        return self._fused.norm(module, states)

    def tick(self) -> None:
        """Count one more token, where anybody reads the count."""
        if self.granularity > 1:
            self.shared["known"].add_(1)

    def span(self, first: int, count: int, *, known: int) -> Span:
        """The next `count` slots from `first`, when `known` tokens are there."""
        end = first + count
        if not self._settled and end > self.room:
            self._resize(max(end + SPARE_SLOTS, int(end * GROWTH)))
        if self.granularity == 1:
            return Span(first, count, end, None)
        device = self.shared["known"].device
        places = torch.arange(first - known, end - known, device=device) + self.shared["known"]
        return Span(first, count, min(self.room, self.view(end)), places)

    def view(self, filled: int) -> int:
        """How many slots attention looks at when `filled` are."""
        return -(-filled // self.granularity) * self.granularity

    def inputs(self, states: Tensor, span: Span, *, shift: int = 0) -> AttentionInputs:
        """Rotary embedding and mask for `states` [B, N, H] in the slots of `span`, whose tokens stand `shift` later."""
        self._shifts = max(self._shifts, shift)
        if "cosine" not in self.shared or len(self.shared["cosine"]) < span.first + span.count + shift:
            self._make_tables(states, self.room)
        cosine, sine = (self._at(self.shared[name], span, shift)[:, :, None, None] for name in ("cosine", "sine"))
        rotation = self._at(self.shared["rotation"], span, shift)[:, :, None] if "rotation" in self.shared else None
        return AttentionInputs(span, cosine, sine, self._mask(span, states.dtype), rotation)

    def run(self, layers: Iterable[int], states: Tensor, inputs: AttentionInputs) -> Tensor:
        """Run `layers`, which have seen equally many slots, over new `states` [B, N, H]."""
        for index in layers:
            cache = self.rows[f"slots{index}"]
            if self._fused is None:
                states = attend(self._layers[index], states, cache, inputs)
            else:
                states = self._fused.attend(index, states, cache, inputs)
        return states

    def phase(self, filled: int) -> Hashable:
        """What a recorded step over `filled` slots depends on."""
        return min(self.room, self.view(filled))

    def constants(self) -> Hashable:
        """What every step depends on."""
        return self._padded, self.granularity, None if self._fused is None else self._fused.kinds

    def _resize(self, room: int) -> None:
        for index in range(len(self._layers)):
            old = self.rows[f"slots{index}"]
            new = old.new_zeros(*old.shape[:3], room, old.shape[4])
            kept = min(room, old.shape[3])
            new[:, :, :, :kept] = old[:, :, :, :kept]
            self.rows[f"slots{index}"] = new

    def _make_tables(self, like: Tensor, room: int) -> None:
        """Cosine and sine [positions, D] of every position there is room for."""
        positions = torch.arange(room + self._shifts, device=like.device)
        cosine, sine = (each[0] for each in self._rotary(like, positions[None]))
        half = sine.shape[-1] // 2
        self.shared["cosine"] = cosine
        self.shared["sine"] = torch.cat([-sine[..., :half], sine[..., half:]], dim=-1)
        self._make_rotation()

    def _make_rotation(self) -> None:
        if self._fused is not None and self._fused.folded:
            half = self.shared["cosine"].shape[-1] // 2
            self.shared["rotation"] = torch.complex(self.shared["cosine"][:, :half], self.shared["sine"][:, half:])

    def _at(self, table: Tensor, span: Span, shift: int) -> Tensor:
        """Entries [B or 1, N, D] of `table` for the tokens of `span`."""
        if span.places is None and not self._padded:
            return table.narrow(0, span.first + shift, span.count)[None]
        places = span.places
        if places is None:
            places = torch.arange(span.first, span.first + span.count, device=table.device)
        positions = ((places + shift) - self.rows["padding"][:, None]).clamp(min=0)
        return table.index_select(0, positions.flatten()).view(*positions.shape, -1)

    def _mask(self, span: Span, kind: torch.dtype) -> Tensor | None:
        if span.places is None and span.count == 1:
            if not self._padded:
                return None
            if self._settled:
                return self.rows["padding_mask"][:, None, None, : span.view]
        visible = self._visible(span)
        return torch.zeros_like(visible, dtype=kind).masked_fill(~visible, -torch.inf)

    def _visible(self, span: Span) -> Tensor:
        """Which slots each of the new ones sees; a padding slot sees itself, so that no softmax is empty."""
        padding = self.rows["padding"]
        slots = torch.arange(span.view, device=padding.device)
        new = slots[span.first :] if span.places is None else span.places
        if span.count == 1:
            seen = slots >= padding[:, None]
            return (seen if span.places is None else seen & (slots <= new))[:, None, None]
        visible = (slots <= new[:, None])[None]
        if self._padded or span.places is not None:
            visible = (visible & (slots >= padding[:, None, None])) | (slots == new[:, None])
        return visible[:, None].expand(-1, self._groups, -1, -1).flatten(1, 2)[:, None]
