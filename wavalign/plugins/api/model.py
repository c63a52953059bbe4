"""Model families: token layout, network, and the state of a batch that is being sampled."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from wavalign.plugins.api.base import Plugin
from wavalign.plugins.api.decoding import DecodingState
from wavalign.plugins.batch import Answer, AudioClip, Dialogue, Message, TokenBatch, TokenSequence, TokenSpace

INIT_STD = 0.02

EncodeAudio = Callable[[AudioClip], Sequence[int]]
"""Clip -> codec ids; the engine's cache stands behind it, so asking twice costs nothing."""


@final
@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where an architecture takes its sizes, tokenizer and weights from."""

    checkpoint: str | None
    """Local folder of a checkpoint in its original layout; None starts from random weights."""
    preset: str | None
    """Named size, for random weights."""
    tokenizer: str | None
    """Folder or file of the base tokenizer, for random weights; a checkpoint brings its own."""
    device: str = "cpu"
    """Where frozen helpers outside the policy run, such as an encoder that turns sound into features."""


class Policy(nn.Module, ABC):
    """The network of one architecture. Parameter names are those of the original checkpoint."""

    packs: ClassVar[bool] = False
    """Whether `hidden` heeds a batch's `layout`; one that does not is given rows as they are."""

    @abstractmethod
    def hidden(self, batch: TokenBatch, heads: frozenset[int]) -> dict[int, Tensor]:
        """Hidden states [B, T, H] of each wanted head (index in `TokenSpace.heads`), before its projection.

        Rows are right-padded: causality alone hides the padding. Where `batch.layout` is there, they are packed, and it
        says what stands at which position and sees what; only a policy that `packs` is given such a batch.
        """

    @abstractmethod
    def head_weight(self, head: int) -> nn.Parameter:
        """Projection [V, H] of a head (no bias)."""

    @abstractmethod
    def decode(
        self, prompts: Sequence[TokenSequence], *, group_size: int, need: Literal["text", "all"]
    ) -> DecodingState:
        """Prefill each prompt once, repeat it `group_size` times and stand ready to sample.

        `need="text"` lets a row finish as soon as the layout shows that no text can follow. Up to there it is the row
        that `need="all"` gives, and behind it that row has neither TEXT nor TEXT_END.
        """

    @torch.no_grad()
    def initialize(self) -> None:
        """Draw weights from the global generator as Llama and Qwen2 do: normal(0, 0.02), biases 0, norms 1."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, INIT_STD)
            else:
                parameter.fill_(0.0 if name.endswith(".bias") else 1.0)


@final
@dataclass(frozen=True, slots=True)
class Dimensions:
    """Sizes of a network, for the memory estimate."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    key_value_width: int
    """Width of one layer's cached keys plus values per token."""
    vocabulary: int
    positions: int | None = None
    """Most positions of a row that the network is made for; None where it knows no limit."""
    helper_bytes: int = 0
    """Of frozen networks on the device outside the policy, such as an encoder."""

    @property
    def fused_parameters(self) -> int:
        """Numbers in the copies that sampling with joined projections makes, at most: q, k, v, o, gate and up."""
        attention = 2 * self.hidden * self.hidden + self.hidden * self.key_value_width
        return self.layers * (attention + 2 * self.hidden * self.intermediate)


class Architecture(Plugin):
    """A model family: token layout (stateless) and network. Runtime: `source: ModelSource`."""

    kind = "architecture"

    def __init__(self, params: Any, *, source: ModelSource) -> None:
        self.params, self.source = params, source

    @property
    @abstractmethod
    def tokens(self) -> TokenSpace:
        """Ids, streams and heads of this checkpoint."""

    @abstractmethod
    def empty_policy(self) -> Policy:
        """The network, weights to be filled by the caller: drawn at random or from a checkpoint.

        Modules are made under the caller's default device and dtype (the meta device included) and nothing is drawn.
        """

    def build_policy(self, *, seed: int) -> Policy:
        """Random weights drawn from `seed`, float32, on the CPU; the caller's random state stays as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            policy = self.empty_policy()
            policy.initialize()
        return policy

    @abstractmethod
    def encode_prompt(self, dialogue: Dialogue, encode_audio: EncodeAudio) -> TokenSequence:
        """Everything before the answer, all positions PROMPT (or FORCED)."""

    def encode_target(self, dialogue: Dialogue, encode_audio: EncodeAudio) -> TokenSequence:
        """The demonstration `dialogue.target` as a completion; ValueError where there is none."""
        if dialogue.target is None:
            raise ValueError(f"dialogue {dialogue.id} has no target to encode")
        return self.encode_answer(dialogue, dialogue.target, encode_audio)

    @abstractmethod
    def encode_answer(self, dialogue: Dialogue, answer: Message, encode_audio: EncodeAudio) -> TokenSequence:
        """`answer` to the turns of `dialogue` as a completion, in this family's layout."""

    def check_words(self, dialogue: Dialogue) -> None:
        """Raise DataError where the turns or words of a dialogue cannot be written; looks at no sound.

        Asked of every record before a run starts. Without it, a bad one is found when it is drawn.
        """

    @abstractmethod
    def decode_completion(self, completion: TokenSequence) -> Answer:
        """Text and codes of a completion; the inverse of `encode_target`."""

    def token_text(self, token: int) -> str:
        """What id `token` stands for, for people: its text, or a name in angle brackets."""
        return f"<{token}>"

    @abstractmethod
    def parameter_group(self, name: str) -> str:
        """Group of a parameter: embed, trunk, text_head, audio_head, audio_branch, mtp, encoder or projector."""

    @abstractmethod
    def dimensions(self) -> Dimensions:
        """Sizes for the memory estimate, known without building the network."""

    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Name -> shape of every tensor the policy wants; nothing is allocated."""
        with torch.device("meta"):
            policy = self.empty_policy()
        return {name: tuple(tensor.shape) for name, tensor in policy.state_dict().items()}

    @abstractmethod
    def save_layout(self, folder: str) -> None:
        """Write config and tokenizer files of the original layout next to the weights."""

    ignored_keys: ClassVar[tuple[str, ...]] = ()
    """Regular expressions of tensors a public checkpoint may hold that the policy does not use."""
    frozen_groups: ClassVar[tuple[str, ...]] = ()
    """Parameter groups that stay as they are unless a recipe's `freeze` says otherwise."""
