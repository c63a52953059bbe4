"""The policy: hidden states of every head for scoring and training, cached decoding for sampling."""

from collections.abc import Sequence
from typing import Literal, cast, final

from torch import Tensor, nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from wavalign.plugins.api import DecodingState, Policy
from wavalign.plugins.architectures.attending import attending
from wavalign.plugins.architectures.vita_audio.decoding import DecodingPlan, VitaDecodingState
from wavalign.plugins.architectures.vita_audio.network import Backbone, VitaNetwork
from wavalign.plugins.architectures.vita_audio.sizes import VitaSizes
from wavalign.plugins.batch import TokenBatch, TokenSequence


@final
class VitaPolicy(Policy):
    """One interleaved stream, a main head and K MTP heads; with an encoder, user sound is given as features."""

    packs = True

    def __init__(self, sizes: VitaSizes, plan: DecodingPlan) -> None:
        super().__init__()
        self.sizes, self.plan = sizes, plan
        hidden, modules = sizes.hidden_size, range(sizes.num_mtp_layers)
        self.model = Backbone(sizes)
        self.lm_head = None if sizes.tie_embeddings else nn.Linear(hidden, sizes.vocabulary_size, bias=False)
        self.mtp_projs = nn.ModuleList(nn.Linear(2 * hidden, hidden, bias=False) for _ in modules)
        self.mtp_embed_norms = nn.ModuleList(Qwen2RMSNorm(hidden, eps=sizes.rms_norm_eps) for _ in modules)
        self.mtp_hidden_norms = nn.ModuleList(Qwen2RMSNorm(hidden, eps=sizes.rms_norm_eps) for _ in modules)

    @property
    def network(self) -> VitaNetwork:
        """The modules as training and decoding use them."""
        return VitaNetwork(self.sizes, self.model, self.mtp_projs, self.mtp_embed_norms, self.mtp_hidden_norms)

    def head_weight(self, head: int) -> nn.Parameter:
        """Projection [V, H], one for all heads."""
        if not 0 <= head <= self.sizes.num_mtp_layers:
            raise IndexError(f"head {head} of {self.sizes.num_mtp_layers + 1}")
        return cast(nn.Parameter, (self.model.embed_tokens if self.lm_head is None else self.lm_head).weight)

    def hidden(self, batch: TokenBatch, heads: frozenset[int]) -> dict[int, Tensor]:
        """Hidden states [B, T, H] of `heads`.

        The last k + 1 positions of MTP head k look past the end; they are zero, in packed rows arbitrary.
        """
        network, tokens = self.network, batch.ids[:, 0]
        embedded = self.model.embed_tokens(tokens)
        length, trunk = tokens.shape[1], self.sizes.num_layers
        positions, mask = attending(batch, embedded)
        states = self._through(range(trunk), self.model.with_sounds(embedded, batch.sounds), positions, mask)
        found = {0: states}
        for module in range(max(heads)):
            shift = module + 1
            if batch.layout is not None:
                told = self.model.embed_tokens(batch.layout.ahead(shift)[:, 0])
                states = self._through(
                    [trunk + module], network.mtp_input(module, told, states), positions + shift, mask
                )
            elif length > shift:
                inputs = network.mtp_input(module, embedded[:, shift:], states[:, : length - shift])
                states = self._through([trunk + module], inputs, positions[:, shift:], None)
            else:
                states = embedded[:, :0]
            found[module + 1] = nn.functional.pad(states, (0, 0, 0, length - states.shape[1]))
        return {head: found[head] for head in heads}

    def decode(
        self, prompts: Sequence[TokenSequence], *, group_size: int, need: Literal["text", "all"]
    ) -> DecodingState:
        """Prefill `prompts` once each and stand ready to sample `group_size` answers to each."""
        return VitaDecodingState(self.network, self.plan, prompts, group_size=group_size, need=need)

    def _through(self, layers: Sequence[int], states: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """Run `layers` and the norm over `states` [B, N, H] at `positions` [1, N] or [B, N].

        Causally, or as `mask` [B, 1, N, N] says.
        """
        rotary = self.model.rotary_emb(states, positions)
        for index in layers:
            states = self.model.layers[index](states, position_embeddings=rotary, attention_mask=mask)
        normed: Tensor = self.model.norm(states)
        return normed
