"""Cached decoding for one batch of answers.

Rows are left-padded to the longest prompt, so that every row's coming token has the same slot; padding slots are hidden
by a mask and positions count from each row's first token. Each prompt is run once, then its cache is repeated for the
group. Both heads choose at every step; the layout overrules the audio head for the first `delay` steps and where an
answer is text alone, and the text head once the text has ended.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, final

import torch
from torch import Tensor

from wavalign.plugins.api import DecodingState
from wavalign.plugins.architectures.caching import PaddedSlots
from wavalign.plugins.architectures.kimi_audio.feature_positions import place_features
from wavalign.plugins.architectures.kimi_audio.layout import AUDIO, TEXT, KimiLayout
from wavalign.plugins.architectures.kimi_audio.sizes import KimiSizes
from wavalign.plugins.batch import Role, TokenSequence

if TYPE_CHECKING:
    from wavalign.plugins.architectures.kimi_audio.network import Backbone


FREE = -1
"""In `forced`: the model chooses."""


@final
class KimiDecodingState(DecodingState):
    """Answers under construction; ready once `prefill` has run."""

    def __init__(
        self,
        model: "Backbone",
        sizes: KimiSizes,
        layout: KimiLayout,
        prompts: Sequence[TokenSequence],
        *,
        need: Literal["text", "all"],
    ) -> None:
        device, count = model.norm.weight.device, len(prompts)
        self._model, self._layout, self._text_is_enough = model, layout, need == "text"
        layers = [*model.shared_layers(), *model.text_layers(), *model.audio_layers()]
        fork, trunk = sizes.branch_layer + 1, sizes.num_layers
        self._shared, self._text, self._audio = range(fork), range(fork, trunk), range(trunk, len(layers))
        lengths = [prompt.length for prompt in prompts]
        self._slots = PaddedSlots(layers, model.rotary_emb, lengths, like=model.norm.weight)
        self._roles = layout.role_table(sizes.vocabulary_size).to(device)
        self._ends = torch.tensor(layout.audio_ends, device=device)
        self._step = 0
        # A prompt says by the role of its last audio position that no sound is to follow.
        silent = [int(prompt.roles[AUDIO, -1]) == int(Role.FORCED) for prompt in prompts]
        self._silent = torch.tensor(silent, device=device)
        self._all_silent = all(silent)
        self._text_over = torch.zeros(count, dtype=torch.bool, device=device)
        self._finished = torch.zeros(count, dtype=torch.bool, device=device)
        self._newest = torch.full((count, 2), layout.blank, device=device)
        self._ready: Tensor | None = None

    def prefill(self, prompts: Sequence[TokenSequence]) -> None:
        """Run `prompts`, once each, with the features of their sound."""
        longest, device = max(prompt.length for prompt in prompts), self._newest.device
        shifts = [longest - prompt.length for prompt in prompts]
        ids = torch.full((len(prompts), 2, longest), self._layout.blank)
        for index, (prompt, shift) in enumerate(zip(prompts, shifts, strict=True)):
            ids[index, :, shift:] = prompt.ids
        heard = place_features([prompt.sounds for prompt in prompts], shifts, device)
        self._ready = self._run(self._model.embed(ids.to(device), heard))

    def heads(self) -> tuple[int, ...]:
        """The text head and the audio head, at every step."""
        return (TEXT, AUDIO)

    def hidden(self) -> Tensor:
        """Hidden states [B, 2, H] for the coming tokens."""
        if self._ready is None:
            self._ready = self._run(self._model.embed(self._newest[:, :, None], None))
        return self._ready

    def forced(self) -> Tensor:
        """Ids [B, 2]: blanks of the text stream behind its end, of the audio stream within the delay."""
        waits = self._silent | (self._step < self._layout.delay)
        return torch.where(torch.stack([self._text_over, waits], dim=1), self._layout.blank, FREE)

    def append(self, ids: Tensor) -> Tensor:
        """Take `ids` [B, 2] and return their roles [B, 2] int8."""
        chosen = torch.stack([self._roles[stream][ids[:, stream]] for stream in (TEXT, AUDIO)], dim=1)
        roles = torch.where(self.forced() == FREE, chosen, int(Role.FORCED)).to(torch.int8)
        self._text_over = self._text_over | (roles[:, TEXT] == int(Role.TEXT_END))
        sound_over = (roles[:, AUDIO] == int(Role.AUDIO_MARK)) & torch.isin(ids[:, AUDIO], self._ends)
        enough = self._silent | self._text_is_enough
        self._finished = self._finished | sound_over | (self._text_over & enough)
        self._newest, self._ready = ids, None
        self._step += 1
        return roles

    def finished(self) -> Tensor:
        """Bool [B]: the sound has ended, or the text where no more is wanted."""
        return self._finished

    def text_over(self) -> Tensor:
        """Bool [B]: no text can follow."""
        return self._text_over | self._finished

    def keep(self, rows: Tensor) -> None:
        """Go on with `rows` (indices) only."""
        self._silent, self._text_over = self._silent[rows], self._text_over[rows]
        self._finished, self._newest = self._finished[rows], self._newest[rows]
        self._ready = None if self._ready is None else self._ready[rows]
        self._slots.select(rows)

    def _run(self, embedded: Tensor) -> Tensor:
        """Hidden states [B, 2, H] of the last of the new slots; the audio branch rests where all rows are silent."""
        model, slots = self._model, self._slots
        inputs = slots.attention_inputs(embedded)
        shared = slots.run(self._shared, embedded, inputs)
        text = model.norm(slots.run(self._text, shared, inputs)[:, -1])
        if self._all_silent:
            return torch.stack([text, torch.zeros_like(text)], dim=1)
        audio = model.mimo_norm(slots.run(self._audio, shared, inputs)[:, -1])
        return torch.stack([text, audio], dim=1)
