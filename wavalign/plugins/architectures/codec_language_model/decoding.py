"""Cached decoding for one batch of answers.

Rows are left-padded to the longest prompt; each prompt is run once, then its cache is repeated for the group. Every
stream chooses at every step from the same hidden state; the layout overrules a further stream where stream 0 spoke no
unit so many positions ago, and stream 0 while it waits for the latest codebook.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

import torch
from torch import Tensor

from wavalign.plugins.api import StaticDecodingState
from wavalign.plugins.architectures.answer_roles import placed_roles
from wavalign.plugins.architectures.caching import PaddedSlots
from wavalign.plugins.architectures.codec_language_model.layout import CodecLmLayout
from wavalign.plugins.batch import Role, TokenSequence

if TYPE_CHECKING:
    from wavalign.plugins.architectures.codec_language_model.network import Backbone


FREE = -1
"""In `forced`: the model chooses."""


@final
@dataclass(frozen=True, slots=True)
class Progress:
    """How far an answer is."""

    length: int
    """Tokens known."""
    ready: bool = True
    """Whether the coming tokens' states were left by the prompt."""


@final
class CodecLmDecodingState(StaticDecodingState):
    """Answers under construction."""

    host: Progress

    def __init__(
        self,
        model: "Backbone",
        layout: CodecLmLayout,
        prompts: Sequence[TokenSequence],
        *,
        need: Literal["text", "all"],
    ) -> None:
        super().__init__()
        self._model, self._layout, self._text_is_enough = model, layout, need == "text"
        weight, lengths = model.norm.weight, [prompt.length for prompt in prompts]
        device, longest, count = weight.device, max(lengths), len(prompts)
        self.host = Progress(longest)
        self._slots = PaddedSlots(
            model.trunk(), model.rotary_emb, lengths, like=weight, rows=self.rows, shared=self.shared
        )
        self.shared["roles"] = layout.role_table().to(device)
        self.shared["ends"] = torch.tensor(layout.ends, device=device)
        self.rows["finished"] = torch.zeros(count, dtype=torch.bool, device=device)
        self.rows["behind_text"] = torch.ones(count, dtype=torch.bool, device=device)
        self.rows["text_over"] = torch.zeros(count, dtype=torch.bool, device=device)
        """Whether stream 0 has begun to speak."""
        self.rows["waits"] = torch.zeros(count, dtype=torch.int64, device=device)
        """Blanks that stream 0 still owes behind the end of speech."""
        self.rows["spoke"] = torch.zeros((count, max(layout.delays) + 1), dtype=torch.bool, device=device)
        """Whether stream 0 spoke a unit: column d of the coming position, d positions ago; column 0 stays unused."""
        self.rows["newest"] = torch.full((count, len(layout.delays)), layout.blank, device=device)
        ids = torch.full((count, len(layout.delays), longest), layout.blank)
        for index, prompt in enumerate(prompts):
            ids[index, :, longest - prompt.length :] = prompt.ids
        self._ready: Tensor | None = self._run(ids.to(device))

    def heads(self) -> tuple[int, ...]:
        """A head per stream, at every step."""
        return tuple(range(len(self._layout.delays)))

    def hidden(self) -> Tensor:
        """Hidden states [B, S, H] for the coming tokens, the same for every stream."""
        if self._ready is None:
            self._ready = self._run(self.rows["newest"][:, :, None])
        return self._ready

    def forced(self) -> Tensor:
        """Ids [B, S]: blanks where a stream has nothing to say."""
        return self._idle() * (self._layout.blank - FREE) + FREE

    def take(self, ids: Tensor) -> Tensor:
        """Take `ids` [B, S] and return their roles [B, S] int8."""
        layout, rows, roles = self._layout, self.rows, self.shared["roles"][ids]
        over, behind, finished, waits = (rows[name] for name in ("text_over", "behind_text", "finished", "waits"))
        roles[:, 0] = placed_roles(roles[:, 0], room_for_text=~over, behind_text=behind)
        # A further stream has no words: whatever it says beside codec ids is a mark.
        roles[:, 1:].masked_fill_(roles[:, 1:] != int(Role.AUDIO), int(Role.AUDIO_MARK))
        roles.masked_fill_(self._idle(), int(Role.FORCED))
        first, chosen = roles[:, 0], ids[:, 0]
        free = first != int(Role.FORCED)
        waits.sub_(1).clamp_(min=0).masked_fill_((chosen == layout.end_speech) & free, layout.waits)
        spoke = rows["spoke"]
        if spoke.shape[1] > 1:
            spoke[:, 1:] = spoke[:, :-1].clone()
            torch.eq(first, int(Role.AUDIO), out=spoke[:, 1])
        torch.eq(first, int(Role.TEXT), out=behind)
        over.logical_or_(chosen == layout.begin_speech)
        finished.logical_or_(free & (chosen[:, None] == self.shared["ends"]).any(dim=1))
        if self._text_is_enough:
            finished.logical_or_(over)
        rows["newest"].copy_(ids)
        self._slots.tick()
        self._ready = None
        return roles

    def advance(self) -> None:
        """Count the token."""
        self.host = Progress(self.host.length + 1, ready=False)

    def finished(self) -> Tensor:
        """Bool [B]: closed, or at its sound where only text is wanted."""
        return self.rows["finished"]

    def text_over(self) -> Tensor:
        """Bool [B]: no text can follow."""
        return self.rows["text_over"] | self.rows["finished"]

    def keep(self, rows: Tensor) -> None:
        """Go on with `rows` (indices) only."""
        super().keep(rows)
        self._ready = None if self._ready is None else self._ready[rows]

    def settle(self, steps: int, *, slots: int = 1) -> None:
        """Make room for `steps` more tokens; with `slots` above 1 places come from tensors."""
        self._slots.settle(self.host.length + steps, slots)

    def fuse(self) -> None:
        """Join the projections of every layer."""
        self._slots.fuse([self._model.norm], self._model.embed_tokens.weight)

    def phase(self) -> Hashable:
        """Whether the prompt left what the coming tokens need."""
        return self.host.ready, self._slots.phase(self.host.length)

    def constants(self) -> Hashable:
        """Layout and what is needed of it."""
        return type(self).__name__, self._layout, self._text_is_enough, self._slots.constants()

    def _run(self, ids: Tensor) -> Tensor:
        """Hidden states [B, S, H] behind the new `ids` [B, S, N]."""
        model, slots, now, count = self._model, self._slots, self.host, ids.shape[2]
        states = model.embed(ids)
        inputs = slots.inputs(states, slots.span(now.length - count, count, known=now.length))
        states = slots.run(range(len(slots.layers)), states, inputs)
        return slots.norm(model.norm, states[:, -1:]).expand(-1, len(self._layout.delays), -1)

    def _idle(self) -> Tensor:
        """Bool [B, S]: where the layout puts a blank."""
        spoken = [~self.rows["spoke"][:, delay] for delay in self._layout.delays[1:]]
        return torch.stack([self.rows["waits"] > 0, *spoken], dim=1)
