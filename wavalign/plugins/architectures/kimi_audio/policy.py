"""The policy: hidden states of both heads for scoring and training, cached decoding for sampling."""

from collections.abc import Iterable, Sequence
from typing import Literal, cast, final

import torch
from torch import Tensor, nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

from wavalign.plugins.api import DecodingState, Policy
from wavalign.plugins.architectures.attending import attending
from wavalign.plugins.architectures.kimi_audio.decoding import KimiDecodingState
from wavalign.plugins.architectures.kimi_audio.feature_positions import no_features, place_features
from wavalign.plugins.architectures.kimi_audio.layout import AUDIO, TEXT, KimiLayout
from wavalign.plugins.architectures.kimi_audio.network import Backbone
from wavalign.plugins.architectures.kimi_audio.sizes import KimiSizes
from wavalign.plugins.batch import TokenBatch, TokenSequence


@final
class KimiPolicy(Policy):
    """Two streams, two heads, one trunk that forks."""

    packs = True

    def __init__(self, sizes: KimiSizes, layout: KimiLayout) -> None:
        super().__init__()
        self.sizes, self.layout = sizes, layout
        self.model = Backbone(sizes)
        self.lm_head = nn.Linear(sizes.hidden_size, sizes.vocabulary_size, bias=False)
        self.mimo_output = nn.Linear(sizes.hidden_size, sizes.vocabulary_size, bias=False)

    def head_weight(self, head: int) -> nn.Parameter:
        """Projection [V, H]: `lm_head` of the text stream, `mimo_output` of the audio stream."""
        modules = {TEXT: self.lm_head, AUDIO: self.mimo_output}
        if head not in modules:
            raise IndexError(f"head {head} of {len(modules)}")
        return cast(nn.Parameter, modules[head].weight)

    def hidden(self, batch: TokenBatch, heads: frozenset[int]) -> dict[int, Tensor]:
        """Hidden states [B, T, H] of `heads`.

        Only the layers that lead to a wanted head are run.
        """
        model, device = self.model, batch.ids.device
        heard = place_features(batch.sounds, [0] * len(batch.sounds), device)
        if heard is None and self.sizes.feature_size:
            # Processes that gather weights from one another must all run the adaptor, whoever's users are silent.
            heard = no_features(self.sizes.feature_size, device)
        embedded = model.embed(batch.ids, heard)
        positions, mask = attending(batch, embedded)
        around = model.rotary_emb(embedded, positions), mask
        shared = _through(model.shared_layers(), embedded, *around)
        found: dict[int, Tensor] = {}
        if TEXT in heads:
            found[TEXT] = model.norm(_through(model.text_layers(), shared, *around))
        if AUDIO in heads:
            found[AUDIO] = model.mimo_norm(_through(model.audio_layers(), shared, *around))
        return found

    def decode(
        self, prompts: Sequence[TokenSequence], *, group_size: int, need: Literal["text", "all"]
    ) -> DecodingState:
        """Prefill `prompts` once each and stand ready to sample `group_size` answers to each."""
        state = KimiDecodingState(self.model, self.sizes, self.layout, prompts, need=need)
        state.prefill(prompts)
        state.keep(torch.arange(len(prompts), device=self.lm_head.weight.device).repeat_interleave(group_size))
        return state


def _through(
    layers: Iterable[Qwen2DecoderLayer], states: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None
) -> Tensor:
    """Run `layers` causally over `states` [B, T, H], or as `mask` [B, 1, T, T] says."""
    for layer in layers:
        states = layer(states, position_embeddings=rotary, attention_mask=mask)
    return states
