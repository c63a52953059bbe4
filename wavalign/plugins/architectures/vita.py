"""VITA-Audio style: text and codec ids interleaved in one stream, optionally several tokens per trunk pass.

    prompt = ChatML turns; sound of the user as BOA, code x N, EOA, or heard as features (presets `-plus`)
    answer = t x T1, BOA, code x (A1 - 2), EOA, t x T2, BOA, code x (A2 - 2), EOA, ..., <|im_end|>
    log p(answer | prompt) = sum over t of log softmax(W h^s_{t - shift(s)})[answer_t],   s = head that predicted t

The main head has shift 1; MTP head k predicts the token at shift k + 2. Which head is asked for the coming token
follows from the position alone (`decoding`), never from the kind of token.
Source: VITA-Audio (arXiv 2505.03739) and its public checkpoints (model_type `qwen2_mtp` and, with an encoder,
`qwen2_mtp_sensevoice`).
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import torch
from pydantic import Field, model_validator

from wavalign.plugins.api import Architecture, Dimensions, EncodeAudio, ModelSource
from wavalign.plugins.architectures.configs import check_given_sizes
from wavalign.plugins.architectures.presets import open_preset
from wavalign.plugins.architectures.tokenizers import open_tokenizer, token_text
from wavalign.plugins.architectures.vita_audio.chatml import ChatWriter
from wavalign.plugins.architectures.vita_audio.decoding import DecodingPlan
from wavalign.plugins.architectures.vita_audio.encoder_sizes import CONFIG_FILE, EncoderSizes, read_encoder_config
from wavalign.plugins.architectures.vita_audio.features import (
    STATISTICS_FILE,
    FeatureExtractor,
    no_normalization,
    read_normalization,
)
from wavalign.plugins.architectures.vita_audio.layout import MARKS_PER_CHUNK
from wavalign.plugins.architectures.vita_audio.sizes import (
    PRESETS,
    VitaSizes,
    has_encoder,
    read_public_config,
    sizes_of_config,
)
from wavalign.plugins.architectures.vita_audio.vocabulary import (
    add_vita_tokens,
    padded_size,
    read_vocabulary,
)
from wavalign.plugins.batch import Answer, Dialogue, HeadSpec, Message, TokenSequence, TokenSpace
from wavalign.plugins.clip_features import ClipFeatures
from wavalign.schema.base import Params
from wavalign.schema.bounds import Heads, Layers, Position, Width

if TYPE_CHECKING:
    from wavalign.plugins.architectures.vita_audio.policy import VitaPolicy


class VitaParams(Params):
    """Layout of the answers and, for random weights, sizes that differ from the preset's.

    A checkpoint fixes the sizes: repeating them is allowed, contradicting them is not.
    """

    ratio: tuple[Position, ...] = Field(default=(1, 10, 4, 10), max_length=1000)
    """Text tokens, audio positions (begin and end mark counted), and so on per chunk; in both the last repeats."""
    decoding: tuple[Position, ...] = Field(default=(8192, 0), max_length=1000)
    """Tokens predicted by the main head, then by the MTP modules, and so on; the last pair repeats.
    (8192, 0) is the main head alone, (1, 10, 4, 10) what the public models call Boost."""
    system_prompt: str = ""
    """Opens dialogues that bring no system message; empty for none."""
    feed_user_text: bool = False
    """Also write the text of a spoken user message into the prompt; false makes the model listen."""
    hidden_size: Width | None = None
    """Width of the states; None takes the preset's."""
    num_layers: Layers | None = None
    """Trunk layers, MTP layers not counted; None takes the preset's."""
    num_heads: Heads | None = None
    """Query heads; None takes the preset's."""
    num_key_value_heads: Heads | None = None
    """Key and value heads; None takes the preset's."""
    intermediate_size: Width | None = None
    """Width of the feed-forward layers; None takes the preset's."""
    num_mtp_layers: int | None = Field(default=None, ge=0, le=1024)
    """Multi-token-prediction modules; None takes the preset's."""
    num_codes: Width | None = None
    """Size of the codec vocabulary; None takes the preset's."""
    tie_embeddings: bool | None = None
    """Use the embedding as output projection too; None takes the preset's."""

    @model_validator(mode="after")
    def _check_patterns(self) -> Self:
        """Both patterns are pairs of counts that move on."""
        if len(self.ratio) < 2 or len(self.ratio) % 2:
            raise ValueError("ratio must hold pairs: text tokens, audio positions, ...")
        if min(self.ratio[0::2]) < 1 or min(self.ratio[1::2]) <= MARKS_PER_CHUNK:
            raise ValueError("ratio needs at least 1 text token and 3 audio positions (two are marks) in every chunk")
        if len(self.decoding) < 2 or len(self.decoding) % 2:
            raise ValueError("decoding must hold pairs: main-head tokens, MTP tokens, ...")
        if min(self.decoding[0::2]) < 1 or min(self.decoding[1::2]) < 0:
            raise ValueError("decoding needs at least 1 main-head token and no negative MTP count in every pair")
        return self

    def sizes(self) -> dict[str, Any]:
        """The size fields that are set."""
        fields = type(self).model_fields.keys() - {"ratio", "decoding", "system_prompt", "feed_user_text"}
        return {name: value for name, value in self.model_dump(include=fields).items() if value is not None}


@final
class VitaAudio(Architecture):
    """Tokens and network of one VITA-style model."""

    Params = VitaParams
    ignored_keys: ClassVar[tuple[str, ...]] = (r"rotary_emb\.inv_freq$",)
    frozen_groups: ClassVar[tuple[str, ...]] = ("encoder",)

    def __init__(self, params: VitaParams, *, source: ModelSource) -> None:
        super().__init__(params, source=source)
        if source.checkpoint is not None:
            self._config = read_public_config(source.checkpoint)
            encoder, self._encoder_config, self._extractor = self._from_encoder_files(source.checkpoint)
            self.sizes = sizes_of_config(self._config, source.checkpoint, encoder)
            tokenizer = open_tokenizer(source.checkpoint)
        else:
            self.sizes, tokenizer = self._from_preset(source, params)
            self._config = self.sizes.public_config()
            encoder = self.sizes.encoder
            self._encoder_config = None if encoder is None else encoder.public_config()
            self._extractor = None if encoder is None else FeatureExtractor(no_normalization())
        self.vocabulary = read_vocabulary(
            tokenizer,
            ratio=params.ratio,
            size=self.sizes.vocabulary_size,
            hears=encoder is not None,
            where=source.checkpoint or str(source.tokenizer),
        )
        if source.checkpoint is not None:
            self._check_sizes(source.checkpoint)
        self._plan = DecodingPlan(self.vocabulary.layout, params.decoding)
        heard = None if self._extractor is None else ClipFeatures(self._extractor, self._extractor.identity)
        self._writer = ChatWriter(self.vocabulary, params.system_prompt, params.feed_user_text, heard)
        self._role_table = self.vocabulary.layout.role_table(self.sizes.vocabulary_size)

    @property
    def tokens(self) -> TokenSpace:
        """One stream; the main head first, then the MTP heads."""
        multi = (HeadSpec(f"mtp{k}", stream=0, shift=k + 2) for k in range(self.sizes.num_mtp_layers))
        return TokenSpace(
            vocabulary_size=self.sizes.vocabulary_size,
            pad=self.vocabulary.layout.end_text,
            streams=("mix",),
            heads=(HeadSpec("main", stream=0), *multi),
            num_codes=self.vocabulary.layout.num_codes,
        )

    def empty_policy(self) -> "VitaPolicy":
        """The network under the names of the public checkpoints."""
        # Brings the layers of transformers, which take seconds: what reads a recipe wants none of them.
        from wavalign.plugins.architectures.vita_audio.policy import VitaPolicy

        return VitaPolicy(self.sizes, self._plan)

    def encode_prompt(self, dialogue: Dialogue, encode_audio: EncodeAudio) -> TokenSequence:
        """ChatML up to the assistant's header, all PROMPT."""
        return self._writer.prompt(dialogue, encode_audio)

    def encode_answer(self, dialogue: Dialogue, answer: Message, encode_audio: EncodeAudio) -> TokenSequence:
        """The demonstration, interleaved, with its closing token."""
        ids = torch.tensor(self._writer.answer(answer, dialogue.id, encode_audio))
        return TokenSequence(ids[None], self.vocabulary.layout.roles(ids, self._role_table)[None])

    def check_words(self, dialogue: Dialogue) -> None:
        """Roles and words of a dialogue."""
        self._writer.check_words(dialogue)

    def decode_completion(self, completion: TokenSequence) -> Answer:
        """Text and codes of an answer; what the user said is not part of a completion."""
        layout, ids = self.vocabulary.layout, completion.ids[0].tolist()
        text, codes = layout.deinterleave(ids, completion.roles[0].tolist())
        finished = bool(ids) and ids[-1] in (layout.end_turn, layout.end_text)
        return Answer(self.vocabulary.decode(text), tuple(codes), finished)

    def token_text(self, token: int) -> str:
        """Text of an id; codes and marks have names."""
        return token_text(self.vocabulary.tokenizer, token)

    def parameter_group(self, name: str) -> str:
        """Group of a parameter by its public name."""
        if name.startswith("mtp_"):
            return "mtp"
        if name.startswith("lm_head."):
            return "text_head"
        if name.startswith("model.embed_tokens."):
            return "embed"
        if name.startswith("model.layers."):
            return "mtp" if int(name.split(".")[2]) >= self.sizes.num_layers else "trunk"
        if name.startswith("model.norm."):
            return "trunk"
        if name.startswith("model.audio_model."):
            return "encoder"
        if name.startswith("model.audio_projection."):
            return "projector"
        raise ValueError(f"{name} is no parameter of this architecture")

    def dimensions(self) -> Dimensions:
        """Sizes for the memory estimate; MTP layers count as layers."""
        sizes = self.sizes
        return Dimensions(
            parameters=sum(torch.Size(shape).numel() for shape in self.parameter_shapes().values()),
            layers=sizes.num_layers + sizes.num_mtp_layers,
            hidden=sizes.hidden_size,
            intermediate=sizes.intermediate_size,
            key_value_width=2 * sizes.num_key_value_heads * (sizes.hidden_size // sizes.num_heads),
            vocabulary=sizes.vocabulary_size,
            positions=sizes.max_positions,
        )

    def save_layout(self, folder: str) -> None:
        """Write `config.json`, `generation_config.json`, the tokenizer and the encoder's files in the public layout."""
        layout, place = self.vocabulary.layout, Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        control = {"bos_token_id": layout.end_text, "eos_token_id": layout.end_turn, "pad_token_id": layout.end_text}
        config = self._config
        if self.source.checkpoint is None:
            config = {"speech_token_offset": layout.first_code, "mtp_loss_weight": 1.0, **control, **config}
        generation = {
            **control,
            "eos_token_id": [layout.end_turn, layout.end_text],
            "mtp_inference_mode": list(self._plan.decoding),
        }
        for name, content in (("config.json", config), ("generation_config.json", generation)):
            (place / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        if self._encoder_config is not None:
            (place / CONFIG_FILE).write_text(self._encoder_config, encoding="utf-8")
        if self._extractor is not None:
            (place / STATISTICS_FILE).write_text(self._extractor.normalization.text, encoding="utf-8")
        self.vocabulary.tokenizer.save_pretrained(folder)

    def _check_sizes(self, folder: str) -> None:
        """Sizes in the recipe may repeat those of the checkpoint; raise CheckpointError where they contradict them."""
        fixed = {**asdict(self.sizes), "num_codes": self.vocabulary.layout.num_codes}
        check_given_sizes(self.params.sizes(), fixed, folder)

    def _from_encoder_files(self, folder: str) -> tuple[EncoderSizes | None, str | None, FeatureExtractor | None]:
        """Sizes, config and feature extractor of the checkpoint's encoder, all None where it has none."""
        if not has_encoder(self._config):
            return None, None, None
        encoder, text = read_encoder_config(folder)
        return encoder, text, FeatureExtractor(read_normalization(folder))

    @staticmethod
    def _from_preset(source: ModelSource, params: VitaParams) -> tuple[VitaSizes, Any]:
        """Sizes and completed tokenizer for random weights."""
        preset, tokenizer = open_preset(source, PRESETS, type_="vita")
        given = params.sizes()
        num_codes = given.pop("num_codes", preset.num_codes)
        add_vita_tokens(tokenizer, num_codes, hears=preset.sizes.encoder is not None)
        sizes = replace(preset.sizes, **given, vocabulary_size=padded_size(tokenizer))
        sizes.check()
        return sizes, tokenizer
