"""Cached decoding for one batch of answers.

Rows are left-padded to the longest prompt, so that every row's coming token has the same slot; padding slots are hidden
by a mask and positions count from each row's first token. Each prompt is run once, then its cache is repeated for the
group. MTP modules keep caches and lengths of their own: module k has seen slot i once token i + k + 1 is known, so
states it has not seen yet wait in `pending<k>`. The trunk runs only where the schedule asks for the main head.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

import torch
from torch import Tensor
from torch.nn import functional

from wavalign.plugins.api import StaticDecodingState
from wavalign.plugins.architectures.caching import GROWTH, SPARE_SLOTS, PaddedSlots
from wavalign.plugins.architectures.vita_audio.layout import HeadSchedule, VitaLayout, WatchTable
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
@dataclass(frozen=True, slots=True)
class Progress:
    """How far each part of the network is."""

    length: int
    """Tokens known."""
    turn: int = 0
    """Tokens sampled."""
    seen: tuple[int, ...] = ()
    """Slots that the trunk and then each MTP module in use has seen."""
    ready: bool = True
    """Whether the coming token's states were left by the prompt."""

    def new(self, head: int) -> int:
        """Slots that the part behind `head` can see and has not seen."""
        return self.length - head - self.seen[head]

    def run(self, head: int) -> "Progress":
        """As it is once that part has seen them."""
        seen = (*self.seen[:head], self.length - head, *self.seen[head + 1 :])
        return Progress(self.length, self.turn, seen, self.ready)

    def waiting(self, module: int) -> int:
        """States that MTP `module` has been left and has not seen."""
        return self.seen[module] - self.seen[module + 1]


@final
class VitaDecodingState(StaticDecodingState):
    """Answers under construction."""

    host: Progress

    def __init__(
        self,
        network: "VitaNetwork",
        plan: DecodingPlan,
        prompts: Sequence[TokenSequence],
        *,
        group_size: int,
        need: Literal["text", "all"],
    ) -> None:
        super().__init__()
        self._network, self._plan = network, plan
        layout, sizes, model = plan.layout, network.sizes, network.model
        weight, lengths = model.norm.weight, [prompt.length for prompt in prompts]
        device, longest = weight.device, max(lengths)
        self._modules = plan.modules_used(sizes.num_mtp_layers)
        self._schedule = HeadSchedule(plan.decoding, sizes.num_mtp_layers)
        layers = [model.layer(index) for index in range(sizes.num_layers + self._modules)]
        self._slots = PaddedSlots(layers, model.rotary_emb, lengths, like=weight, rows=self.rows, shared=self.shared)
        tokens = torch.full((len(prompts), longest + SPARE_SLOTS), layout.end_text)
        for index, prompt in enumerate(prompts):
            tokens[index, longest - prompt.length : longest] = prompt.ids[0]
        self.rows["tokens"] = tokens.to(device)
        self.shared["ends"] = torch.tensor([layout.end_turn, layout.end_text], device=device)
        kind = torch.promote_types(weight.dtype, model.embed_tokens.weight.dtype)
        for module in range(self._modules):
            self.rows[f"pending{module}"] = weight.new_empty(len(prompts), 0, sizes.hidden_size, dtype=kind)
        self.host = Progress(longest, seen=(0,) * (self._modules + 1))
        self._ready: Tensor | None = self._prefill([prompt.sounds for prompt in prompts])
        self.rows["finished"] = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        self.rows["forced"] = torch.full((len(prompts), 1), -1, device=device)
        self._watch = WatchTable(layout, sizes.vocabulary_size, self.rows, self.shared)
        self._text_is_enough = need == "text"
        self.keep(torch.arange(len(prompts), device=device).repeat_interleave(group_size))

    def heads(self) -> tuple[int, ...]:
        """Index of the head whose turn it is."""
        return (self._schedule.head(self.host.turn),)

    def hidden(self) -> Tensor:
        """Hidden states [B, 1, H] for the coming token."""
        if self._ready is None:
            self._ready = self._run(self._schedule.head(self.host.turn))[:, -1:]
        return self._ready

    def forced(self) -> Tensor:
        """[B, 1], all -1: this layout forces nothing."""
        return self.rows["forced"]

    def take(self, ids: Tensor) -> Tensor:
        """Take `ids` [B, 1] and return their roles [B, 1] int8."""
        tokens, chosen = self.rows["tokens"], ids[:, 0]
        if self._slots.granularity > 1:
            tokens.index_copy_(1, self.shared["known"], ids)
        else:
            tokens[:, self.host.length] = chosen
        roles = self._watch.append(chosen)
        finished = self.rows["finished"]
        finished.logical_or_((ids == self.shared["ends"]).any(dim=1))
        if self._text_is_enough:
            finished.logical_or_(self._watch.over)
        self._slots.tick()
        self._ready = None
        return roles[:, None]

    def advance(self) -> None:
        """Count the token, and what was run for it."""
        before = self.host
        after = before if before.ready else before.run(self._schedule.head(before.turn))
        self.host = Progress(before.length + 1, before.turn + 1, after.seen, ready=False)
        tokens = self.rows["tokens"]
        if self.host.length >= tokens.shape[1] and not self._slots.settled:
            self.rows["tokens"] = functional.pad(tokens, (0, int(self.host.length * (GROWTH - 1)) + SPARE_SLOTS))

    def finished(self) -> Tensor:
        """Bool [B]: closed, or no text can follow where only text is wanted."""
        return self.rows["finished"]

    def text_over(self) -> Tensor:
        """Bool [B]: no text can follow."""
        return self._watch.over | self.rows["finished"]

    def keep(self, rows: Tensor) -> None:
        """Go on with `rows` (indices) only."""
        super().keep(rows)
        self._ready = None if self._ready is None else self._ready[rows]

    def settle(self, steps: int, *, slots: int = 1) -> None:
        """Make room for `steps` more tokens; with `slots` above 1 places come from tensors."""
        length = self.host.length + steps
        tokens = self.rows["tokens"]
        missing = max(0, length - tokens.shape[1])
        self.rows["tokens"] = functional.pad(tokens, (0, missing))
        for module, most in enumerate(self._most_waiting(steps)):
            waiting = self.rows[f"pending{module}"]
            self.rows[f"pending{module}"] = functional.pad(waiting, (0, 0, 0, max(0, most - waiting.shape[1])))
        self._slots.settle(length, slots, shift=self._modules)

    def fuse(self) -> None:
        """Join the projections of every layer."""
        model = self._network.model
        self._slots.fuse([model.norm], model.embed_tokens.weight)

    def phase(self) -> Hashable:
        """Whose turn it is, and how far behind each part of the network is."""
        now = self.host
        head = self._schedule.head(now.turn)
        behind = tuple(now.length - seen if self._runs_again(part) else 0 for part, seen in enumerate(now.seen))
        return head, now.ready, behind, self._slots.phase(now.length - head)

    def constants(self) -> Hashable:
        """Layout and what is needed of it."""
        return type(self).__name__, self._plan, self._text_is_enough, self._slots.constants()

    def _prefill(self, sounds: Sequence[Sequence[SoundSegment]]) -> Tensor:
        """Run every prompt through the trunk and, as far as its tokens are known, the MTP modules."""
        states = self._run(0, sounds)
        self.host = self.host.run(0)
        for head in range(1, self._modules + 1):
            if self.host.new(head) > 0:
                self._run(head)
                self.host = self.host.run(head)
        return states[:, -1:]

    def _run(self, head: int, sounds: Sequence[Sequence[SoundSegment]] = ()) -> Tensor:
        """States [B, N, H] of `head` for all slots it can see and has not seen; `sounds` where these are prompts."""
        network, now, count = self._network, self.host, self.host.new(head)
        span = self._slots.span(now.seen[head], count, known=now.length)
        states = network.model.embed_tokens(self._tokens(now.seen[head] + head, count, span.places, head))
        if any(sounds):
            states = network.model.with_sounds(states, sounds, self.rows["padding"].tolist())
        layers = range(network.sizes.num_layers)
        if head:
            states = network.mtp_input(head - 1, states, self._taken(head - 1, count))
            layers = range(layers.stop + head - 1, layers.stop + head)
        states = self._slots.run(layers, states, self._slots.inputs(states, span, shift=head))
        normed = self._slots.norm(network.model.norm, states)
        if self._runs_again(head + 1):
            self._leave(head, normed)
        return normed

    def _tokens(self, first: int, count: int, places: Tensor | None, shift: int) -> Tensor:
        """Ids [B, N] of `count` slots from `first`."""
        if places is None:
            return self.rows["tokens"][:, first : first + count]
        return self.rows["tokens"].index_select(1, places + shift)

    def _leave(self, module: int, states: Tensor) -> None:
        """Let `states` [B, N, H] wait for MTP `module`."""
        first, name = self.host.waiting(module), f"pending{module}"
        end = first + states.shape[1]
        if end > self.rows[name].shape[1]:
            self.rows[name] = functional.pad(self.rows[name], (0, 0, 0, end - self.rows[name].shape[1]))
        self.rows[name][:, first:end] = states

    def _taken(self, module: int, count: int) -> Tensor:
        """The first `count` states [B, N, H] that wait for MTP `module`; the rest moves up."""
        waiting, there = self.rows[f"pending{module}"], self.host.waiting(module)
        taken = waiting[:, :count].clone()
        if there > count:
            waiting[:, : there - count] = waiting[:, count:there].clone()
        return taken

    def _runs_again(self, head: int) -> bool:
        """Whether `head` has its turn at this or a later token."""
        return head <= self._modules and self._schedule.comes(head, self.host.turn)

    def _most_waiting(self, steps: int) -> list[int]:
        """How many states wait for each module at most within `steps` tokens."""
        now, most = self.host, [self.host.waiting(module) for module in range(self._modules)]
        for _ in range(steps if self._modules else 0):
            head = self._schedule.head(now.turn)
            if not now.ready:
                now = now.run(head)
                for module in range(self._modules):
                    if self._schedule.comes(module + 1, now.turn):
                        most[module] = max(most[module], now.waiting(module))
            now = Progress(now.length + 1, now.turn + 1, now.seen, ready=False)
        return most
