"""Kimi-Audio style: text and codec ids side by side in two aligned streams, two heads, the sound delayed.

    prompt   U [ c1 .. cm ] W D S        on the audio stream, blanks beside it on the text stream
    answer   text   t1 t2 ... tk  E   B ... B    B        B blank, E end of text, D end of message
             audio  B  ... B  a1  a2 ...   aN    D        as many B as the checkpoint's delay
    log p(answer | prompt) = sum over t of log softmax(W_text h_{t-1})[text_t] + log softmax(W_audio g_{t-1})[audio_t]

h comes from the whole trunk, g from an audio branch that forks off after one of its layers; both see both streams up
to t - 1. Blanks that the layout puts are FORCED and scored nowhere. Beside the codes of what a user says the public
checkpoints hear features of a frozen Whisper encoder, which is no part of the policy.
Source: Kimi-Audio (arXiv 2504.18425) and its public checkpoints (`MoonshotKimiaForCausalLM`): prompt, generation,
delay, stopping rule and weights. Inferred, as no training code for spoken answers is public: targets are laid out as
answers are generated; an answer without text opens with E; a target whose sound ends before its text is an error.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import torch
from pydantic import Field

from wavalign.errors import CheckpointError
from wavalign.plugins.api import Architecture, Dimensions, EncodeAudio, ModelSource
from wavalign.plugins.architectures.configs import check_given_sizes, group_by_prefix
from wavalign.plugins.architectures.kimi_audio.checkpoint_files import copy_checkpoint_files, link_whisper
from wavalign.plugins.architectures.kimi_audio.layout import AUDIO, TEXT
from wavalign.plugins.architectures.kimi_audio.sizes import PRESETS, KimiSizes, read_public_config, sizes_of_config
from wavalign.plugins.architectures.kimi_audio.vocabulary import (
    add_kimi_tokens,
    open_checkpoint_tokenizer,
    read_vocabulary,
)
from wavalign.plugins.architectures.kimi_audio.whisper_front_end import WHISPER_FOLDER, WhisperFrontEnd, whisper_folder
from wavalign.plugins.architectures.kimi_audio.writer import DialogueWriter
from wavalign.plugins.architectures.presets import open_preset
from wavalign.plugins.architectures.tokenizers import token_text
from wavalign.plugins.batch import Answer, Dialogue, HeadSpec, Message, TokenSequence, TokenSpace
from wavalign.schema.base import Params, RecipePath
from wavalign.schema.bounds import Heads, Layers, Position, Width

if TYPE_CHECKING:
    from wavalign.plugins.architectures.kimi_audio.policy import KimiPolicy


class KimiParams(Params):
    """Layout of the answers and, for random weights, sizes that differ from the preset's.

    A checkpoint fixes the sizes, the delay among them: repeating them is allowed, contradicting them is not.
    """

    output: Literal["by_target", "both", "text"] = "by_target"
    """What is asked for: `both` text and speech, `text` alone, or `by_target` text alone where a dialogue has a target
    without sound, and both elsewhere."""
    feed_user_text: bool = False
    """Also write the text of a spoken user message into the prompt; false makes the model listen."""
    whisper: RecipePath | None = None
    """Folder of the Whisper model whose encoder gives the features beside the user's codes; None takes the checkpoint's
    own `whisper-large-v3`."""
    codes_only: bool = False
    """Let a network that was made to hear Whisper features beside the user's codes hear the codes alone; no Whisper
    model is needed then. For trials: the public checkpoints understand speech through the features."""
    hidden_size: Width | None = None
    """Width of the states; None takes the preset's."""
    num_layers: Layers | None = None
    """Trunk layers; None takes the preset's."""
    num_audio_layers: Layers | None = None
    """Layers of the audio branch; None takes the preset's."""
    branch_layer: Position | None = None
    """Trunk layer, counted from 0, behind which the audio branch forks off; None takes the preset's."""
    num_heads: Heads | None = None
    """Query heads; None takes the preset's."""
    num_key_value_heads: Heads | None = None
    """Key and value heads; None takes the preset's."""
    intermediate_size: Width | None = None
    """Width of the feed-forward layers; None takes the preset's."""
    audio_delay: Position | None = None
    """Blanks before the sound of an answer; None takes the preset's."""
    feature_size: int | None = Field(default=None, ge=0, le=1 << 20)
    """Width of the Whisper features beside the user's codes, 0 for none; None takes the preset's."""
    num_codes: Width | None = None
    """Size of the codec vocabulary; None takes the preset's."""

    def sizes(self) -> dict[str, Any]:
        """The size fields that are set."""
        fields = type(self).model_fields.keys() - {"output", "feed_user_text", "whisper", "codes_only"}
        return {name: value for name, value in self.model_dump(include=fields).items() if value is not None}


@final
class KimiAudio(Architecture):
    """Tokens and network of one Kimi-style model."""

    Params = KimiParams
    ignored_keys: ClassVar[tuple[str, ...]] = (r"rotary_emb\.inv_freq$", r"^whisper_model\.")

    def __init__(self, params: KimiParams, *, source: ModelSource) -> None:
        super().__init__(params, source=source)
        if source.checkpoint is not None:
            self._config = read_public_config(source.checkpoint)
            self.sizes = sizes_of_config(self._config, source.checkpoint)
            tokenizer = open_checkpoint_tokenizer(source.checkpoint, self.sizes)
        else:
            self.sizes, tokenizer = self._from_preset(source, params)
            self._config = self.sizes.public_config()
        self.vocabulary = read_vocabulary(tokenizer, self.sizes, where=source.checkpoint or str(source.tokenizer))
        self._media = {
            "kimia_media_begin": self.vocabulary.layout.media_begin,
            "kimia_media_end": self.vocabulary.layout.media_end,
        }
        if source.checkpoint is not None:
            self._check_checkpoint(source.checkpoint)
        self._front_end = self._open_front_end(source, params)
        self._writer = DialogueWriter(self.vocabulary, params.output, params.feed_user_text, self._front_end)

    @property
    def tokens(self) -> TokenSpace:
        """Two streams with a head each."""
        return TokenSpace(
            vocabulary_size=self.sizes.vocabulary_size,
            pad=self.vocabulary.layout.blank,
            streams=("text", "audio"),
            heads=(HeadSpec("text", stream=TEXT), HeadSpec("audio", stream=AUDIO)),
            num_codes=self.sizes.num_codes,
        )

    def empty_policy(self) -> "KimiPolicy":
        """The network under the names of the public checkpoints."""
        # Brings the layers of transformers, which take seconds: what reads a recipe wants none of them.
        from wavalign.plugins.architectures.kimi_audio.policy import KimiPolicy

        return KimiPolicy(self.sizes, self.vocabulary.layout)

    def encode_prompt(self, dialogue: Dialogue, encode_audio: EncodeAudio) -> TokenSequence:
        """Turns of both speakers up to the assistant's header, all PROMPT.

        Only the last audio position is FORCED where the answer is to be text alone; decoding goes by that.
        """
        return self._writer.prompt(dialogue, encode_audio)

    def encode_answer(self, dialogue: Dialogue, answer: Message, encode_audio: EncodeAudio) -> TokenSequence:
        """The demonstration on two streams, as it would be generated."""
        return self._writer.answer(dialogue, answer, encode_audio)

    def check_words(self, dialogue: Dialogue) -> None:
        """Roles and words of a dialogue."""
        self._writer.check_words(dialogue)

    def decode_completion(self, completion: TokenSequence) -> Answer:
        """Text up to its end mark, and codes."""
        text, audio = (completion.ids[stream].tolist() for stream in (TEXT, AUDIO))
        words, codes, finished = self.vocabulary.layout.take_apart(text, audio)
        return Answer(self.vocabulary.decode(words), tuple(codes), finished)

    def token_text(self, token: int) -> str:
        """Text of an id; marks have names, and codes stand behind the text vocabulary."""
        code = token - self.vocabulary.layout.first_code
        return f"<code {code}>" if code >= 0 else token_text(self.vocabulary.tokenizer, token)

    def parameter_group(self, name: str) -> str:
        """Group of a parameter by its public name."""
        groups = {
            "lm_head.": "text_head",
            "mimo_output.": "audio_head",
            "model.embed_tokens.": "embed",
            "model.layers.": "trunk",
            "model.norm.": "trunk",
            "model.mimo_": "audio_branch",
            "model.vq_adaptor.": "projector",
        }
        return group_by_prefix(name, groups)

    def dimensions(self) -> Dimensions:
        """Sizes for the memory estimate; layers of the audio branch count as layers."""
        sizes = self.sizes
        return Dimensions(
            parameters=sum(torch.Size(shape).numel() for shape in self.parameter_shapes().values()),
            layers=sizes.num_layers + sizes.num_audio_layers,
            hidden=sizes.hidden_size,
            intermediate=sizes.intermediate_size,
            key_value_width=2 * sizes.num_key_value_heads * (sizes.hidden_size // sizes.num_heads),
            vocabulary=sizes.vocabulary_size,
            positions=sizes.max_positions,
        )

    def save_layout(self, folder: str) -> None:
        """Write config and tokenizer: a checkpoint's own files as they are, a preset's in the public layout.

        The Whisper model stays where it is; a link leads there.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        if self.source.checkpoint is not None:
            copy_checkpoint_files(Path(self.source.checkpoint), place)
        else:
            content = json.dumps({**self._config, **self._media}, indent=2, sort_keys=True)
            (place / "config.json").write_text(content + "\n", encoding="utf-8")
            self.vocabulary.tokenizer.save_pretrained(folder)
        if self._front_end is not None:
            link_whisper(self._front_end.folder, place)
        elif self.source.checkpoint is not None:
            link_whisper(Path(self.source.checkpoint) / WHISPER_FOLDER, place)

    def _open_front_end(self, source: ModelSource, params: KimiParams) -> WhisperFrontEnd | None:
        """The Whisper front end; None where the network takes no features or `codes_only` is set."""
        if not self.sizes.feature_size or params.codes_only:
            return None
        folder = whisper_folder(source.checkpoint, params.whisper)
        return WhisperFrontEnd(folder, feature_size=self.sizes.feature_size, device=source.device)

    def _check_checkpoint(self, folder: str) -> None:
        """Raise CheckpointError where tokenizer or recipe contradict the config of the checkpoint."""
        for name, value in self._media.items():
            if self._config.get(name, value) != value:
                raise CheckpointError(
                    f"{folder}: {name} is {self._config[name]} in config.json, {value} in the tokenizer"
                )
        fixed = {**asdict(self.sizes), "num_codes": self.sizes.num_codes}
        check_given_sizes(self.params.sizes(), fixed, folder)

    @staticmethod
    def _from_preset(source: ModelSource, params: KimiParams) -> tuple[KimiSizes, Any]:
        """Sizes and completed tokenizer for random weights."""
        preset, tokenizer = open_preset(source, PRESETS, type_="kimi")
        given = params.sizes()
        first_code = add_kimi_tokens(tokenizer)
        num_codes = given.pop("num_codes", preset.num_codes)
        sizes = replace(preset.sizes, **given, first_code=first_code, vocabulary_size=first_code + num_codes)
        sizes.check()
        return sizes, tokenizer
