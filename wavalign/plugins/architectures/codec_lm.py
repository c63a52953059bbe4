"""Codec language models: words and codec units in one stream, or further codebooks beside it, each a step later.

    one stream     [Human]: <sosp> u1 .. um <eosp> <eoh>. [SpeechGPT]: | text ... <sosp> a1 .. aN <eosp> <eoa>
    K codebooks    stream k as stream 0, `delays[k]` positions later, where stream 0 speaks; blanks elsewhere
    log p(answer | prompt) = sum over streams k and t of log softmax(W_k h_{t-1})[s^k_t]

h comes from a plain Llama or Qwen2 trunk, as the checkpoint's `model_type` says. Text is TEXT, what closes an answer
without sound TEXT_END, units are AUDIO, <sosp>, <eosp> and what closes a spoken answer AUDIO_MARK; blanks that the
layout puts are FORCED and scored nowhere.
A model that writes the first codebook alone (`codebooks: 1`) needs `model.nar` to complete the others for the codec.
Source: SpeechGPT (arXiv 2305.11000), AnyGPT (arXiv 2402.12226), SpeechAlign (arXiv 2404.05600) and MusicGen's delay
pattern (arXiv 2306.05284).
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import torch
from pydantic import Field, model_validator

from wavalign.errors import CheckpointError
from wavalign.plugins.api import Architecture, Dimensions, EncodeAudio, ModelSource
from wavalign.plugins.architectures.codec_language_model.sizes import (
    PRESETS,
    CodecLmSizes,
    Trunk,
    read_sizes,
    sizes_of,
)
from wavalign.plugins.architectures.codec_language_model.templates import TEMPLATES, TemplateName
from wavalign.plugins.architectures.codec_language_model.vocabulary import add_tokens, padded_size, read_vocabulary
from wavalign.plugins.architectures.codec_language_model.writer import CodecLmWriter
from wavalign.plugins.architectures.configs import check_given_sizes, group_by_prefix
from wavalign.plugins.architectures.presets import open_preset
from wavalign.plugins.architectures.tokenizers import open_tokenizer, token_text
from wavalign.plugins.batch import Answer, Dialogue, HeadSpec, Message, TokenSequence, TokenSpace
from wavalign.schema.base import Params
from wavalign.schema.bounds import Heads, Layers, Position, Width

if TYPE_CHECKING:
    from wavalign.plugins.architectures.codec_language_model.policy import CodecLmPolicy


LAYOUT_FILES = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja"),
)
"""What of a checkpoint is copied beside new weights."""


class CodecLmParams(Params):
    """Layout of the dialogues and, for random weights, sizes that differ from the preset's.

    A checkpoint fixes the sizes, the delays among them: repeating them is allowed, contradicting them is not.
    """

    template: TemplateName = "speechgpt"
    """Words around questions and answers, and the names of the units."""
    say_text: bool | None = None
    """Write the text of a spoken answer before its sound; None does what the template does, false speaks only."""
    transcript: bool = False
    """Write the words of a spoken question before the answer to it (templates that have a place for them)."""
    instruction: str | None = None
    """Stands before a written question, e.g. what asks to read it aloud; None takes the template's."""
    feed_user_text: bool = False
    """Also write the text of a spoken user message into the prompt; false makes the model listen."""
    codes_per_frame: int | None = Field(default=None, ge=1, le=256)
    """Ids the codec gives per frame, each codebook's in a range of its own; None is one per stream."""
    codebooks: int | None = Field(default=None, ge=1, le=256)
    """How many ids of a frame, from the first, the model writes; None is all of them. A NAR completes the others."""
    merge_repeats: bool = False
    """Write a unit that follows itself once, as SpeechGPT does."""
    trunk: Trunk | None = None
    """Kind of decoder layers; None takes the preset's."""
    hidden_size: Width | None = None
    """Width of the states; None takes the preset's."""
    num_layers: Layers | None = None
    """Decoder layers; None takes the preset's."""
    num_heads: Heads | None = None
    """Query heads; None takes the preset's."""
    num_key_value_heads: Heads | None = None
    """Key and value heads; None takes the preset's."""
    intermediate_size: Width | None = None
    """Width of the feed-forward layers; None takes the preset's."""
    num_codes: Width | None = None
    """Units of the vocabulary; None takes the preset's."""
    tie_embeddings: bool | None = None
    """Use the embedding as output projection of the first stream too; None takes the preset's."""
    delays: tuple[Position, ...] | None = Field(default=None, min_length=1, max_length=256)
    """Per stream, how many positions its codebook comes late: (0, 1, 2) are three; None takes the preset's."""

    @model_validator(mode="after")
    def _check_layout(self) -> Self:
        """Options that exclude one another."""
        if self.transcript and TEMPLATES[self.template].transcript_closes is None:
            raise ValueError(f"template {self.template} has no place for a transcript")
        if self.transcript and self.say_text is False:
            raise ValueError("a transcript stands before the text of an answer: say_text cannot be false")
        return self

    def sizes(self) -> dict[str, Any]:
        """The size fields that are set."""
        fields = {"trunk", "hidden_size", "num_layers", "num_heads", "num_key_value_heads", "intermediate_size"}
        found = self.model_dump(include={*fields, "num_codes", "tie_embeddings", "delays"})
        return {name: value for name, value in found.items() if value is not None}


@final
class CodecLm(Architecture):
    """Tokens and network of one codec language model."""

    Params = CodecLmParams
    ignored_keys: ClassVar[tuple[str, ...]] = (r"rotary_emb\.inv_freq$",)

    def __init__(self, params: CodecLmParams, *, source: ModelSource) -> None:
        super().__init__(params, source=source)
        template = TEMPLATES[params.template]
        if source.checkpoint is not None:
            self.sizes, tokenizer = read_sizes(source.checkpoint), open_tokenizer(source.checkpoint)
        else:
            self.sizes, tokenizer = self._from_preset(source, params)
        where, rows = source.checkpoint or str(source.tokenizer), self.sizes.vocabulary_size
        self.vocabulary = read_vocabulary(tokenizer, template, delays=self.sizes.delays, size=rows, where=where)
        if source.checkpoint is not None:
            fixed = {**self.sizes.named(), "num_codes": self.vocabulary.layout.num_codes}
            check_given_sizes(params.sizes(), fixed, source.checkpoint)
        if params.instruction:
            self.vocabulary.checked(params.instruction, what="model.architecture.instruction", strict=False)
        self._codes_per_frame, self._codebooks = self._frame(params, len(self.sizes.delays))
        self._writer = CodecLmWriter(
            self.vocabulary,
            codes_per_frame=self._codes_per_frame,
            codebooks=self._codebooks,
            merge_repeats=params.merge_repeats,
            says_text=template.says_text if params.say_text is None else params.say_text,
            says_transcript=params.transcript,
            instruction=template.instruction if params.instruction is None else params.instruction,
            feed_user_text=params.feed_user_text,
        )
        self._role_table = self.vocabulary.layout.role_table()

    @property
    def tokens(self) -> TokenSpace:
        """A stream and a head per delay."""
        further = range(1, len(self.sizes.delays))
        return TokenSpace(
            vocabulary_size=self.sizes.vocabulary_size,
            pad=self.vocabulary.layout.blank,
            streams=("mix", *(f"codebook{k}" for k in further)),
            heads=(HeadSpec("main", stream=0), *(HeadSpec(f"codebook{k}", stream=k) for k in further)),
            num_codes=self.vocabulary.layout.num_codes,
            frame_codes=self._codebooks if self._codebooks < self._codes_per_frame else None,
        )

    def empty_policy(self) -> "CodecLmPolicy":
        """The network under the names of the public checkpoints."""
        # Brings the layers of transformers, which take seconds: what reads a recipe wants none of them.
        from wavalign.plugins.architectures.codec_language_model.policy import CodecLmPolicy

        return CodecLmPolicy(self.sizes, self.vocabulary.layout)

    def encode_prompt(self, dialogue: Dialogue, encode_audio: EncodeAudio) -> TokenSequence:
        """Turns of both speakers up to the assistant's name, all PROMPT."""
        return self._writer.prompt(dialogue, encode_audio)

    def encode_answer(self, dialogue: Dialogue, answer: Message, encode_audio: EncodeAudio) -> TokenSequence:
        """The demonstration with its closing token."""
        ids = self._writer.answer(dialogue, answer, encode_audio)
        return TokenSequence(ids, self.vocabulary.layout.roles(ids, self._role_table))

    def check_words(self, dialogue: Dialogue) -> None:
        """Roles and words of a dialogue."""
        self._writer.check_words(dialogue)

    def decode_completion(self, completion: TokenSequence) -> Answer:
        """Text before the sound, and the codes of complete frames."""
        layout, ids = self.vocabulary.layout, completion.ids.tolist()
        words = layout.text(ids[0], completion.roles[0].tolist())
        text = self._writer.text_of(self.vocabulary.decode(words))
        return Answer(text, tuple(layout.codes(ids)), bool(ids[0]) and ids[0][-1] in layout.ends)

    def token_text(self, token: int) -> str:
        """Text of an id; codes and marks have names."""
        return token_text(self.vocabulary.tokenizer, token)

    def parameter_group(self, name: str) -> str:
        """Group of a parameter by its public name."""
        groups = {
            "lm_head.": "text_head",
            "codebook_heads.": "audio_head",
            "model.embed_tokens.": "embed",
            "model.layers.": "trunk",
            "model.norm.": "trunk",
        }
        return group_by_prefix(name, groups)

    def dimensions(self) -> Dimensions:
        """Sizes for the memory estimate."""
        return Dimensions(
            parameters=sum(torch.Size(shape).numel() for shape in self.parameter_shapes().values()),
            layers=self.sizes.num_layers,
            hidden=self.sizes.hidden_size,
            intermediate=int(self.sizes.config.intermediate_size),
            key_value_width=2 * self.sizes.num_key_value_heads * self.sizes.head_size,
            vocabulary=self.sizes.vocabulary_size,
            positions=int(self.sizes.config.max_position_embeddings),
        )

    def save_layout(self, folder: str) -> None:
        """Copy config and tokenizer of the checkpoint as they are, or write them for random weights."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        if self.source.checkpoint is not None:
            for file in (Path(self.source.checkpoint) / name for name in LAYOUT_FILES):
                if file.is_file() and file.resolve() != (place / file.name).resolve():
                    shutil.copyfile(file, place / file.name)
            return
        content = json.dumps(self.sizes.public_config(), indent=2, sort_keys=True)
        (place / "config.json").write_text(content + "\n", encoding="utf-8")
        self.vocabulary.tokenizer.save_pretrained(folder)

    @staticmethod
    def _frame(params: CodecLmParams, streams: int) -> tuple[int, int]:
        """Ids per frame of the codec, and how many of them are written; CheckpointError where they do not fit."""
        given = streams if params.codes_per_frame is None else params.codes_per_frame
        written = given if params.codebooks is None and streams == 1 else params.codebooks or streams
        if written > given or (streams > 1 and written != streams):
            raise CheckpointError(
                f"{streams} streams cannot write {written} of {given} ids per frame",
                hint="delays, codebooks and codes_per_frame: a stream per codebook, and no more than the codec has",
            )
        if params.merge_repeats and written > 1:
            raise CheckpointError("merge_repeats is for one id per frame", hint="set codebooks: 1, or leave it out")
        return given, written

    @staticmethod
    def _from_preset(source: ModelSource, params: CodecLmParams) -> tuple[CodecLmSizes, Any]:
        """Sizes and completed tokenizer for random weights."""
        preset, tokenizer = open_preset(source, PRESETS, type_="codec_lm")
        numbers = {**asdict(preset), **params.sizes()}
        add_tokens(tokenizer, TEMPLATES[params.template], numbers["num_codes"], blank=len(numbers["delays"]) > 1)
        return sizes_of(numbers, padded_size(tokenizer)), tokenizer
