"""Cached decoding for one batch of answers.

Rows are left-padded to the longest prompt, so that every row's coming token has the same slot; padding slots are hidden
by a mask and positions count from each row's first token. Each prompt is run once, then its cache is repeated for the
group. MTP modules keep caches and lengths of their own: module k has seen slot i once token i + k + 1 is known, so
states it has not seen yet wait in `_pending[k]`. The trunk runs only where the schedule asks for the main head.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

import torch
from torch import Tensor
from torch.nn import functional

from wavalign.plugins.api import DecodingState
from wavalign.plugins.architectures.caching import GROWTH, SPARE_SLOTS, PaddedSlots
from wavalign.plugins.architectures.vita_audio.layout import TextWatch, VitaLayout, head_schedule
from wavalign.plugins.batch import SoundSegment, TokenSequence

if TYPE_CHECKING:
    from wavalign.plugins.architectures.vita_audio.network import VitaNetwork


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
        network: "VitaNetwork",
        plan: DecodingPlan,
        prompts: Sequence[TokenSequence],
        *,
        group_size: int,
        need: Literal["text", "all"],
    ) -> None:
        self._network = network
        layout, sizes, model = plan.layout, network.sizes, network.model
        weight, modules = model.norm.weight, plan.modules_used(sizes.num_mtp_layers)
        device = weight.device
        lengths = [prompt.length for prompt in prompts]
        self._length = max(lengths)
        layers = [model.layer(index) for index in range(sizes.num_layers + modules)]
        self._slots = PaddedSlots(layers, model.rotary_emb, lengths, like=weight)
        self._tokens = torch.full((len(prompts), self._length + SPARE_SLOTS), layout.end_text)
        for index, prompt in enumerate(prompts):
            self._tokens[index, self._length - prompt.length : self._length] = prompt.ids[0]
        self._tokens = self._tokens.to(device)
        self._roles = layout.role_table(sizes.vocabulary_size).to(device)
        self._schedule: Iterator[int] = head_schedule(plan.decoding, sizes.num_mtp_layers)
        self._head = next(self._schedule)
        self._pending = [weight.new_empty(len(prompts), 0, sizes.hidden_size)] * modules
        self._ready: Tensor | None = self._prefill(modules, [prompt.sounds for prompt in prompts])
        rows = torch.arange(len(prompts), device=device).repeat_interleave(group_size)
        self._finished = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        self._ends = torch.tensor([layout.end_turn, layout.end_text], device=device)
        self._watch = TextWatch(layout, len(prompts), device)
        self._text_is_enough = need == "text"
        self.keep(rows)

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
        roles = self._watch.append(chosen, self._roles[chosen])
        self._finished = self._finished | torch.isin(chosen, self._ends)
        if self._text_is_enough:
            self._finished = self._finished | self._watch.over
        self._head = next(self._schedule)
        self._ready = None
        return roles[:, None]

    def finished(self) -> Tensor:
        """Bool [B]: closed, or no text can follow where only text is wanted."""
        return self._finished

    def text_over(self) -> Tensor:
        """Bool [B]: no text can follow."""
        return self._watch.over | self._finished

    def keep(self, rows: Tensor) -> None:
        """Go on with `rows` (indices) only."""
        self._tokens, self._finished = self._tokens[rows], self._finished[rows]
        self._pending = [states[rows] for states in self._pending]
        self._ready = None if self._ready is None else self._ready[rows]
        self._slots.select(rows)
        self._watch.keep(rows)

    def _prefill(self, modules: int, sounds: Sequence[Sequence[SoundSegment]]) -> Tensor:
        """Run every prompt through the trunk and, as far as its tokens are known, the MTP modules."""
        states = self._run_trunk(sounds)
        for module in range(modules):
            if self._length > module + 1:
                self._run_module(module)
        return states[:, -1:]

    def _run_trunk(self, sounds: Sequence[Sequence[SoundSegment]] = ()) -> Tensor:
        """Main head's states [B, N, H] of all slots the trunk has not seen; `sounds` where these are prompts."""
        network, seen = self._network, self._slots.filled(0)
        states = network.model.embed_tokens(self._tokens[:, seen : self._length])
        if any(sounds):
            states = network.model.with_sounds(states, sounds, self._slots.padding.tolist())
        trunk = range(network.sizes.num_layers)
        return self._finish(self._slots.run(trunk, states, self._slots.attention_inputs(states)), consumer=0)

    def _run_module(self, module: int) -> Tensor:
        """States [B, N, H] of MTP `module` for all slots it can see and has not seen."""
        network, layer = self._network, self._network.sizes.num_layers + module
        first = self._slots.filled(layer) + module + 1
        embedded = network.model.embed_tokens(self._tokens[:, first : self._length])
        waiting = self._pending[module]
        states = network.mtp_input(module, embedded, waiting[:, : embedded.shape[1]])
        self._pending[module] = waiting[:, embedded.shape[1] :]
        inputs = self._slots.attention_inputs(states, layer=layer, shift=module + 1)
        return self._finish(self._slots.run([layer], states, inputs), consumer=module + 1)

    def _finish(self, states: Tensor, *, consumer: int) -> Tensor:
        """Norm `states` and leave them for MTP module `consumer`, if that one is in use."""
        normed: Tensor = self._network.model.norm(states)
        if consumer < len(self._pending):
            self._pending[consumer] = torch.cat([self._pending[consumer], normed], dim=1)
        return normed
