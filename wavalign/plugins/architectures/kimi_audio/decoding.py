"""Cached decoding for one batch of answers.

Rows are left-padded to the longest prompt, so that every row's coming token has the same slot; padding slots are hidden
by a mask and positions count from each row's first token. Each prompt is run once, then its cache is repeated for the
group. Both heads choose at every step; the layout overrules the audio head for the first `delay` steps and where an
answer is text alone, and the text head once the text has ended.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, final

import torch
from torch import Tensor

from wavalign.plugins.api import StaticDecodingState
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
@dataclass(frozen=True, slots=True)
class Progress:
    """How far an answer is."""

    length: int
    """Tokens known."""
    turn: int = 0
    """Tokens sampled."""


@final
class KimiDecodingState(StaticDecodingState):
    """Answers under construction; ready once `prefill` has run."""

    host: Progress

    def __init__(
        self,
        model: "Backbone",
        sizes: KimiSizes,
        layout: KimiLayout,
        prompts: Sequence[TokenSequence],
        *,
        need: Literal["text", "all"],
    ) -> None:
        super().__init__()
        device, count = model.norm.weight.device, len(prompts)
        self._model, self._layout, self._text_is_enough = model, layout, need == "text"
        layers = [*model.shared_layers(), *model.text_layers(), *model.audio_layers()]
        fork, trunk = sizes.branch_layer + 1, sizes.num_layers
        self._shared, self._text, self._audio = range(fork), range(fork, trunk), range(trunk, len(layers))
        lengths = [prompt.length for prompt in prompts]
        self._slots = PaddedSlots(
            layers, model.rotary_emb, lengths, like=model.norm.weight, rows=self.rows, shared=self.shared
        )
        self.host = Progress(max(lengths))
        self.shared["roles"] = layout.role_table(sizes.vocabulary_size).to(device)
        self.shared["ends"] = torch.tensor(layout.audio_ends, device=device)
        # A prompt says by the role of its last audio position that no sound is to follow.
        silent = [int(prompt.roles[AUDIO, -1]) == int(Role.FORCED) for prompt in prompts]
        self._all_silent = all(silent)
        self.rows["silent"] = torch.tensor(silent, device=device)
        self.rows["text_over"] = torch.zeros(count, dtype=torch.bool, device=device)
        self.rows["finished"] = torch.zeros(count, dtype=torch.bool, device=device)
        self.rows["newest"] = torch.full((count, 2), layout.blank, device=device)
        self._ready: Tensor | None = None

    def prefill(self, prompts: Sequence[TokenSequence]) -> None:
        """Run `prompts`, once each, with the features of their sound."""
        longest, device = max(prompt.length for prompt in prompts), self.rows["newest"].device
        shifts = [longest - prompt.length for prompt in prompts]
        ids = torch.full((len(prompts), 2, longest), self._layout.blank)
        for index, (prompt, shift) in enumerate(zip(prompts, shifts, strict=True)):
            ids[index, :, shift:] = prompt.ids
        heard = place_features([prompt.sounds for prompt in prompts], shifts, device)
        self._ready = self._run(self._model.embed(ids.to(device), heard), longest)

    def heads(self) -> tuple[int, ...]:
        """The text head and the audio head, at every step."""
        return (TEXT, AUDIO)

    def hidden(self) -> Tensor:
        """Hidden states [B, 2, H] for the coming tokens."""
        if self._ready is None:
            self._ready = self._run(self._model.embed(self.rows["newest"][:, :, None], None), 1)
        return self._ready

    def forced(self) -> Tensor:
        """Ids [B, 2]: blanks of the text stream behind its end, of the audio stream within the delay."""
        silent = self.rows["silent"]
        waits = torch.ones_like(silent) if self.host.turn < self._layout.delay else silent
        return torch.stack([self.rows["text_over"], waits], dim=1) * (self._layout.blank - FREE) + FREE

    def take(self, ids: Tensor) -> Tensor:
        """Take `ids` [B, 2] and return their roles [B, 2] int8."""
        table, over, silent = self.shared["roles"], self.rows["text_over"], self.rows["silent"]
        chosen = torch.stack([table[stream][ids[:, stream]] for stream in (TEXT, AUDIO)], dim=1)
        roles = chosen.masked_fill(self.forced() != FREE, int(Role.FORCED))
        over.logical_or_(roles[:, TEXT] == int(Role.TEXT_END))
        ends = (ids[:, AUDIO, None] == self.shared["ends"]).any(dim=1)
        finished = self.rows["finished"]
        finished.logical_or_((roles[:, AUDIO] == int(Role.AUDIO_MARK)) & ends)
        finished.logical_or_(over if self._text_is_enough else over & silent)
        self.rows["newest"].copy_(ids)
        self._slots.tick()
        self._ready = None
        return roles

    def advance(self) -> None:
        """Count the token."""
        self.host = replace(self.host, length=self.host.length + 1, turn=self.host.turn + 1)

    def finished(self) -> Tensor:
        """Bool [B]: the sound has ended, or the text where no more is wanted."""
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
        model = self._model
        self._slots.fuse([model.norm, model.mimo_norm], model.embed_tokens.weight)

    def phase(self) -> Hashable:
        """Whether the sound still waits, and whether the prompt left what the coming tokens need."""
        now = self.host
        return now.turn == 0, now.turn < self._layout.delay, self._slots.phase(now.length)

    def constants(self) -> Hashable:
        """Layout and what is needed of it."""
        return type(self).__name__, self._layout, self._text_is_enough, self._all_silent, self._slots.constants()

    def _run(self, embedded: Tensor, count: int) -> Tensor:
        """Hidden states [B, 2, H] behind `count` new slots; the audio branch rests where all rows are silent."""
        model, slots, now = self._model, self._slots, self.host
        inputs = slots.inputs(embedded, slots.span(now.length - count, count, known=now.length))
        shared = slots.run(self._shared, embedded, inputs)
        text = slots.norm(model.norm, slots.run(self._text, shared, inputs)[:, -1])
        if self._all_silent:
            return torch.stack([text, torch.zeros_like(text)], dim=1)
        audio = slots.norm(model.mimo_norm, slots.run(self._audio, shared, inputs)[:, -1])
        return torch.stack([text, audio], dim=1)
