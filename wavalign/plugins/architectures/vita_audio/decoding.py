"""Cached decoding for one batch of answers.

Rows are left-padded to the longest prompt, so that every row's coming token has the same slot; padding slots are hidden
by a mask and positions count from each row's first token. Each prompt is run once, then its cache is repeated for the
group. MTP modules keep caches and lengths of their own: module k has seen slot i once token i + k + 1 is known, so
states it has not seen yet wait in `_pending[k]`. The trunk runs only where the schedule asks for the main head.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor
from torch.nn import functional

from wavalign.plugins.api import DecodingState
from wavalign.plugins.architectures.caching import GROWTH, SPARE_SLOTS, Glance, LayerCache, attend
from wavalign.plugins.architectures.vita_audio.layout import TextWatch, VitaLayout, head_schedule
from wavalign.plugins.architectures.vita_audio.network import VitaNetwork
from wavalign.plugins.batch import Role, SoundSegment, TokenSequence


@final
@dataclass(frozen=True, slots=True)
class DecodingPlan:
    """What decoding needs to know beyond the weights."""

    layout: VitaLayout
    decoding: tuple[int, ...]
    """Tokens by main head, tokens by MTP modules, ...; the last pair repeats."""

    def modules_used(self, num_mtp_layers: int) -> int:
        """How many MTP modules the schedule ever asks for."""
        return min(num_mtp_layers, max(self.decoding[1::2]))


@final
class VitaDecodingState(DecodingState):
    """Answers under construction."""

    def __init__(
        self,
        network: VitaNetwork,
        plan: DecodingPlan,
        prompts: Sequence[TokenSequence],
        *,
        group_size: int,
        need: Literal["text", "all"],
    ) -> None:
        self._network = network
        layout, sizes, weight = plan.layout, network.sizes, network.model.norm.weight
        device, modules = weight.device, plan.modules_used(sizes.num_mtp_layers)
        lengths = [prompt.length for prompt in prompts]
        self._length = max(lengths)
        self._padding = torch.tensor([self._length - length for length in lengths], device=device)
        self._padded = len(set(lengths)) > 1
        self._tokens = torch.full((len(prompts), self._length + SPARE_SLOTS), layout.end_text)
        for index, prompt in enumerate(prompts):
            self._tokens[index, self._length - prompt.length : self._length] = prompt.ids[0]
        self._tokens = self._tokens.to(device)
        self._roles = layout.role_table(sizes.vocabulary_size).to(device)
        self._schedule: Iterator[int] = head_schedule(plan.decoding, sizes.num_mtp_layers)
        self._head = next(self._schedule)
        self._caches = self._new_caches(len(prompts), modules)
        self._pending = [weight.new_empty(len(prompts), 0, sizes.hidden_size)] * modules
        self._ready: Tensor | None = self._prefill(modules, [prompt.sounds for prompt in prompts])
        rows = torch.arange(len(prompts), device=device).repeat_interleave(group_size)
        self._finished = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        self._watch: TextWatch | None = None
        self.keep(rows)
        if need == "text":
            self._watch = TextWatch(layout, len(rows), device)

    def heads(self) -> tuple[int, ...]:
        """Index of the head whose turn it is."""
        return (self._head,)

    def hidden(self) -> Tensor:
        """Hidden states [B, 1, H] for the coming token."""
        if self._ready is None:
            self._ready = (self._run_trunk() if self._head == 0 else self._run_module(self._head - 1))[:, -1:]
        return self._ready

    def forced(self) -> Tensor:
        """[B, 1], all -1: this layout forces nothing."""
        return torch.full((len(self._tokens), 1), -1, dtype=torch.int64, device=self._tokens.device)

    def append(self, ids: Tensor) -> Tensor:
        """Take `ids` [B, 1] and return their roles [B, 1] int8."""
        if self._length == self._tokens.shape[1]:
            self._tokens = functional.pad(self._tokens, (0, int(self._length * (GROWTH - 1)) + SPARE_SLOTS))
        chosen = ids[:, 0]
        self._tokens[:, self._length] = chosen
        self._length += 1
        roles = self._roles[chosen]
        self._finished = self._finished | (roles == int(Role.TEXT_END))
        if self._watch is not None:
            self._finished = self._finished | self._watch.append(chosen, roles)
        self._head = next(self._schedule)
        self._ready = None
        return roles[:, None]

    def finished(self) -> Tensor:
        """Bool [B]: closed, or no text can follow where only text is wanted."""
        return self._finished

    def keep(self, rows: Tensor) -> None:
        """Go on with `rows` (indices) only."""
        self._tokens, self._padding = self._tokens[rows], self._padding[rows]
        self._finished = self._finished[rows]
        self._pending = [states[rows] for states in self._pending]
        self._ready = None if self._ready is None else self._ready[rows]
        for cache in self._caches:
            cache.select(rows)
        if self._watch is not None:
            self._watch.keep(rows)

    def _new_caches(self, rows: int, modules: int) -> list[LayerCache]:
        """Empty caches of the trunk and of the MTP modules in use, with room to sample."""
        sizes, weight = self._network.sizes, self._network.model.norm.weight
        shape = (rows, sizes.num_key_value_heads, self._length + SPARE_SLOTS, sizes.hidden_size // sizes.num_heads)
        return [LayerCache(weight.new_empty(shape), weight.new_empty(shape)) for _ in range(sizes.num_layers + modules)]

    def _prefill(self, modules: int, sounds: Sequence[Sequence[SoundSegment]]) -> Tensor:
        """Run every prompt through the trunk and, as far as its tokens are known, the MTP modules."""
        states = self._run_trunk(sounds)
        for module in range(modules):
            if self._length > module + 1:
                self._run_module(module)
        return states[:, -1:]

    def _run_trunk(self, sounds: Sequence[Sequence[SoundSegment]] = ()) -> Tensor:
        """Main head's states [B, N, H] of all slots the trunk has not seen; `sounds` where these are prompts."""
        network, seen = self._network, self._caches[0].length
        states = network.model.embed_tokens(self._tokens[:, seen : self._length])
        if any(sounds):
            states = network.model.with_sounds(states, sounds, self._padding.tolist())
        return self._finish(self._run(range(network.sizes.num_layers), states, shift=0), consumer=0)

    def _run_module(self, module: int) -> Tensor:
        """States [B, N, H] of MTP `module` for all slots it can see and has not seen."""
        network, layer = self._network, self._network.sizes.num_layers + module
        first = self._caches[layer].length + module + 1
        embedded = network.model.embed_tokens(self._tokens[:, first : self._length])
        waiting = self._pending[module]
        states = network.mtp_input(module, embedded, waiting[:, : embedded.shape[1]])
        self._pending[module] = waiting[:, embedded.shape[1] :]
        return self._finish(self._run([layer], states, shift=module + 1), consumer=module + 1)

    def _finish(self, states: Tensor, *, consumer: int) -> Tensor:
        """Norm `states` and leave them for MTP module `consumer`, if that one is in use."""
        normed: Tensor = self._network.model.norm(states)
        if consumer < len(self._pending):
            self._pending[consumer] = torch.cat([self._pending[consumer], normed], dim=1)
        return normed

    def _run(self, layers: Sequence[int], states: Tensor, *, shift: int) -> Tensor:
        """Run `layers`, which share one cache length, over new `states`; tokens stand `shift` after their slots."""
        glance = self._glance(states, self._caches[layers[0]].length, shift)
        for index in layers:
            states = attend(self._network.model.layer(index), states, self._caches[index], glance)
        return states

    def _glance(self, states: Tensor, seen: int, shift: int) -> Glance:
        """Rotation and visibility of slots seen..seen+N."""
        end = seen + states.shape[1]
        slots = torch.arange(end, device=states.device)
        new = slots[seen:]
        positions = (new + shift)[None]
        if self._padded:
            positions = (positions - self._padding[:, None]).clamp(min=0)
        cosine, sine = self._network.model.rotary_emb(states, positions)
        half = sine.shape[-1] // 2
        sine = torch.cat([-sine[..., :half], sine[..., half:]], dim=-1)
        visible = self._visible(slots, new)
        mask = None
        if visible is not None:
            mask = torch.zeros_like(visible, dtype=states.dtype).masked_fill(~visible, -torch.inf)
        return Glance(cosine[:, :, None, None], sine[:, :, None, None], mask)

    def _visible(self, slots: Tensor, new: Tensor) -> Tensor | None:
        """Which `slots` each of the `new` ones sees; a padding slot sees itself, so that no softmax is empty."""
        if len(new) == 1 and not self._padded:
            return None
        if len(new) == 1:
            return (slots >= self._padding[:, None])[:, None, None]
        visible = slots <= new[:, None]
        if self._padded:
            visible = (visible & (slots >= self._padding[:, None, None])) | (slots == new[:, None])
        else:
            visible = visible[None]
        groups = self._network.sizes.num_heads // self._network.sizes.num_key_value_heads
        return visible[:, None].expand(-1, groups, -1, -1).flatten(1, 2)[:, None]
