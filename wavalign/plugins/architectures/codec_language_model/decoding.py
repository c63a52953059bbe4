"""Cached decoding for one batch of answers.

Rows are left-padded to the longest prompt; each prompt is run once, then its cache is repeated for the group. Every
stream chooses at every step from the same hidden state; the layout overrules a further stream where stream 0 spoke no
unit so many positions ago, and stream 0 while it waits for the latest codebook.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, final

import torch
from torch import Tensor

from wavalign.plugins.api import DecodingState
from wavalign.plugins.architectures.answer_roles import placed_roles
from wavalign.plugins.architectures.caching import PaddedSlots
from wavalign.plugins.architectures.codec_language_model.layout import CodecLmLayout
from wavalign.plugins.batch import Role, TokenSequence

if TYPE_CHECKING:
    from wavalign.plugins.architectures.codec_language_model.network import Backbone


FREE = -1
"""In `forced`: the model chooses."""


@final
class CodecLmDecodingState(DecodingState):
    """Answers under construction."""

    def __init__(
        self,
        model: "Backbone",
        layout: CodecLmLayout,
        prompts: Sequence[TokenSequence],
        *,
        need: Literal["text", "all"],
    ) -> None:
        self._model, self._layout, self._text_is_enough = model, layout, need == "text"
        weight, lengths = model.norm.weight, [prompt.length for prompt in prompts]
        device, longest, count = weight.device, max(lengths), len(prompts)
        self._layers = range(len(model.layers))
        self._slots = PaddedSlots(model.trunk(), model.rotary_emb, lengths, like=weight)
        self._roles = layout.role_table().to(device)
        self._finished = torch.zeros(count, dtype=torch.bool, device=device)
        self._ends = torch.tensor(layout.ends, device=device)
        self._behind_text = torch.ones(count, dtype=torch.bool, device=device)
        self._text_over = torch.zeros(count, dtype=torch.bool, device=device)
        """Whether stream 0 has begun to speak."""
        self._waits = torch.zeros(count, dtype=torch.int64, device=device)
        """Blanks that stream 0 still owes behind the end of speech."""
        self._spoke = torch.zeros((count, max(layout.delays) + 1), dtype=torch.bool, device=device)
        """Whether stream 0 spoke a unit: column d of the coming position, d positions ago; column 0 stays unused."""
        self._newest = torch.full((count, len(layout.delays), longest), layout.blank)
        for index, prompt in enumerate(prompts):
            self._newest[index, :, longest - prompt.length :] = prompt.ids
        self._newest = self._newest.to(device)
        self._ready: Tensor | None = None
        self._ready = self.hidden()

    def heads(self) -> tuple[int, ...]:
        """A head per stream, at every step."""
        return tuple(range(len(self._layout.delays)))

    def hidden(self) -> Tensor:
        """Hidden states [B, S, H] for the coming tokens, the same for every stream."""
        if self._ready is None:
            states = self._model.embed(self._newest)
            states = self._slots.run(self._layers, states, self._slots.attention_inputs(states))
            self._ready = self._model.norm(states[:, -1:]).expand(-1, len(self._layout.delays), -1)
        return self._ready

    def forced(self) -> Tensor:
        """Ids [B, S]: blanks where a stream has nothing to say."""
        return torch.where(self._idle(), self._layout.blank, FREE)

    def append(self, ids: Tensor) -> Tensor:
        """Take `ids` [B, S] and return their roles [B, S] int8."""
        layout, roles = self._layout, self._roles[ids]
        roles[:, 0] = placed_roles(roles[:, 0], room_for_text=~self._text_over, behind_text=self._behind_text)
        # A further stream has no words: whatever it says beside codec ids is a mark.
        roles[:, 1:] = torch.where(roles[:, 1:] == int(Role.AUDIO), roles[:, 1:], int(Role.AUDIO_MARK))
        roles = torch.where(self._idle(), int(Role.FORCED), roles).to(torch.int8)
        first, chosen = roles[:, 0], ids[:, 0]
        self._waits = (self._waits - 1).clamp(min=0)
        self._waits = torch.where(
            (chosen == layout.end_speech) & (first != int(Role.FORCED)), layout.waits, self._waits
        )
        self._spoke[:, 1:] = self._spoke[:, :-1].clone()
        if self._spoke.shape[1] > 1:
            self._spoke[:, 1] = first == int(Role.AUDIO)
        self._behind_text = first == int(Role.TEXT)
        self._text_over = self._text_over | (chosen == layout.begin_speech)
        self._finished = self._finished | ((first != int(Role.FORCED)) & torch.isin(chosen, self._ends))
        if self._text_is_enough:
            self._finished = self._finished | self._text_over
        self._newest, self._ready = ids[:, :, None], None
        return roles

    def finished(self) -> Tensor:
        """Bool [B]: closed, or at its sound where only text is wanted."""
        return self._finished

    def text_over(self) -> Tensor:
        """Bool [B]: no text can follow."""
        return self._text_over | self._finished

    def keep(self, rows: Tensor) -> None:
        """Go on with `rows` (indices) only."""
        self._finished, self._waits, self._spoke = self._finished[rows], self._waits[rows], self._spoke[rows]
        self._behind_text, self._text_over = self._behind_text[rows], self._text_over[rows]
        self._newest = self._newest[rows]
        self._ready = None if self._ready is None else self._ready[rows]
        self._slots.select(rows)

    def _idle(self) -> Tensor:
        """Bool [B, S]: where the layout puts a blank."""
        spoken = [~self._spoke[:, delay] for delay in self._layout.delays[1:]]
        return torch.stack([self._waits > 0, *spoken], dim=1)
