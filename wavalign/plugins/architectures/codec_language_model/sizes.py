"""The numbers that fix a network, from a preset or from the `config.json` of a Llama or Qwen2 checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, final

from huggingface_hub.errors import StrictDataclassError
from transformers import LlamaConfig, Qwen2Config

from wavalign.errors import CheckpointError, quoted
from wavalign.plugins.architectures.configs import check_heads
from wavalign.storage.checkpoint_config import read_config, whole

Trunk = Literal["llama", "qwen2"]
TrunkConfig = LlamaConfig | Qwen2Config
CONFIGS: dict[str, type[LlamaConfig | Qwen2Config]] = {"llama": LlamaConfig, "qwen2": Qwen2Config}
CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
DELAYS_KEY = "codebook_delays"
"""Entry of a `config.json` that holds the delays; without it a checkpoint has one stream."""
FIXED_ROPE = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings that depend on the position alone, so that cached and whole passes agree."""


@final
@dataclass(frozen=True, slots=True)
class CodecLmSizes:
    """A trunk and the delays of its streams."""

    config: TrunkConfig
    """Of the decoder layers."""
    delays: tuple[int, ...]
    """Per stream, how many positions its codebook comes late; one entry for a single stream."""

    @property
    def hidden_size(self) -> int:
        return int(self.config.hidden_size)

    @property
    def num_layers(self) -> int:
        return int(self.config.num_hidden_layers)

    @property
    def vocabulary_size(self) -> int:
        return int(self.config.vocab_size)

    @property
    def num_key_value_heads(self) -> int:
        return int(self.config.num_key_value_heads or self.config.num_attention_heads)

    @property
    def head_size(self) -> int:
        """Width of one head."""
        given = self.config.to_dict().get("head_dim")
        return int(given or self.hidden_size // int(self.config.num_attention_heads))

    @property
    def tied(self) -> bool:
        """Whether the embedding is the output projection too."""
        return bool(self.config.tie_word_embeddings)

    def named(self) -> dict[str, Any]:
        """The sizes a recipe may give, by the names it gives them."""
        return {
            "trunk": self.config.model_type,
            "hidden_size": self.hidden_size,
            "num_layers": self.num_layers,
            "num_heads": int(self.config.num_attention_heads),
            "num_key_value_heads": self.num_key_value_heads,
            "intermediate_size": int(self.config.intermediate_size),
            "tie_embeddings": self.tied,
            "delays": self.delays,
        }

    def check(self) -> None:
        """Raise CheckpointError where the delays are no delays."""
        if not self.delays or self.delays[0] != 0 or any(delay < 1 for delay in self.delays[1:]):
            raise CheckpointError(
                f"delays {list(self.delays)} do not begin with 0, or hold less than 1 behind it",
                hint="the first codebook says when the others begin and end, so they come at least one position later",
            )

    def public_config(self) -> dict[str, Any]:
        """A `config.json` of a network with random weights."""
        config = self.config
        public = {
            "architectures": [CLASSES[config.model_type]],
            "model_type": config.model_type,
            "hidden_act": config.hidden_act,
            "hidden_size": self.hidden_size,
            "intermediate_size": config.intermediate_size,
            "max_position_embeddings": config.max_position_embeddings,
            "num_attention_heads": config.num_attention_heads,
            "num_hidden_layers": self.num_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "rms_norm_eps": config.rms_norm_eps,
            "rope_theta": _rope(config)["rope_theta"],
            "tie_word_embeddings": self.tied,
            "vocab_size": self.vocabulary_size,
        }
        return public if len(self.delays) == 1 else {**public, DELAYS_KEY: list(self.delays)}


@final
@dataclass(frozen=True, slots=True)
class Preset:
    """A named size for random weights; the vocabulary comes from the base tokenizer."""

    trunk: Trunk
    hidden_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    intermediate_size: int
    num_codes: int
    tie_embeddings: bool
    delays: tuple[int, ...] = (0,)


PRESETS: dict[str, Preset] = {
    "tiny": Preset("llama", 128, 4, 4, 2, 320, num_codes=640, tie_embeddings=True),
    "tiny-delay": Preset("llama", 128, 4, 4, 2, 320, num_codes=640, tie_embeddings=True, delays=(0, 1)),
    "7b": Preset("llama", 4096, 32, 32, 32, 11008, num_codes=1000, tie_embeddings=False),
}
"""The tiny ones train on a CPU, over the codec of the embedded world; `7b` has the sizes of LLaMA-7B."""


_FIELDS = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_key_value_heads",
    "intermediate_size": "intermediate_size",
}
"""Entry of a public config -> field of a preset."""


def sizes_of(numbers: Mapping[str, Any], vocabulary_size: int) -> CodecLmSizes:
    """Sizes from the fields of a preset, changed as the recipe says; CheckpointError where they do not fit."""
    _check({name: int(numbers[field]) for name, field in _FIELDS.items()})
    config = CONFIGS[numbers["trunk"]](
        vocab_size=vocabulary_size,
        hidden_size=numbers["hidden_size"],
        intermediate_size=numbers["intermediate_size"],
        num_hidden_layers=numbers["num_layers"],
        num_attention_heads=numbers["num_heads"],
        num_key_value_heads=numbers["num_key_value_heads"],
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        rms_norm_eps=1e-6,
        max_position_embeddings=4096,
        tie_word_embeddings=numbers["tie_embeddings"],
    )
    sizes = CodecLmSizes(_runnable(config), tuple(numbers["delays"]))
    sizes.check()
    return sizes


def read_sizes(folder: str) -> CodecLmSizes:
    """Sizes of a checkpoint folder; raises CheckpointError where this family cannot run them."""
    public, path = read_config(folder), Path(folder) / "config.json"
    family = public.get("model_type")
    if not isinstance(family, str) or family not in CONFIGS:
        raise CheckpointError(f"{path}: model_type is {family!r}, type codec_lm reads {' and '.join(CONFIGS)}")
    if public.get("use_sliding_window"):
        raise CheckpointError(f"{path}: sliding windows are not supported")
    needed = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    missing = [name for name in needed if name not in public]
    if missing:
        raise CheckpointError(f"{path} has no {', '.join(missing)}")
    where, heads = str(path), whole(public, "num_attention_heads", str(path))
    if public.get("num_key_value_heads") is None:  # as many as query heads
        public = {**public, "num_key_value_heads": heads}
    given = {name: whole(public, name, where) for name in _FIELDS}
    whole(public, "vocab_size", where)
    _check(given)
    try:
        config = CONFIGS[family].from_dict(public)
    except (TypeError, ValueError, KeyError, AttributeError, StrictDataclassError) as error:
        raise CheckpointError(f"{path} cannot be used: {quoted(error, 400)}", hint="fetch it again") from error
    rope = _rope(config)["rope_type"]
    if rope not in FIXED_ROPE:
        raise CheckpointError(
            f"{path}: rope_type {rope!r} changes with the length of a row", hint=f"supported: {', '.join(FIXED_ROPE)}"
        )
    delays = public.get(DELAYS_KEY, [0])
    if not isinstance(delays, list) or not all(type(each) is int for each in delays):
        raise CheckpointError(f"{path}: {DELAYS_KEY} is no list of whole numbers")
    sizes = CodecLmSizes(_runnable(config), tuple(delays))
    sizes.check()
    return sizes


def _check(numbers: Mapping[str, int]) -> None:
    """Raise CheckpointError where numbers, by their public names, do not fit one another."""
    hidden, heads, shared = (numbers[name] for name in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    if min(numbers.values()) < 1:
        raise CheckpointError("every size must be at least 1")
    check_heads(hidden, heads, shared)


def _rope(config: TrunkConfig) -> Mapping[str, Any]:
    """Parameters of the rotary embedding; `from_dict` and the constructors always fill them in."""
    return cast(Mapping[str, Any], config.rope_parameters)


def _runnable(config: TrunkConfig) -> TrunkConfig:
    """`config` as the layers here want it: no dropout, which would make a score differ from call to call."""
    config.attention_dropout = 0.0
    config._attn_implementation = "sdpa"
    return config
