"""The numbers that fix a network, from a preset or from a public `config.json`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from transformers import Qwen2Config

from wavalign.errors import CheckpointError
from wavalign.plugins.architectures.configs import check_heads, qwen2_config
from wavalign.plugins.architectures.presets import Preset
from wavalign.storage.checkpoint_config import mapping, names, read_config, real, whole

NETWORK_NAME, MODEL_TYPE = "MoonshotKimiaForCausalLM", "kimi_audio"


@final
@dataclass(frozen=True, slots=True)
class KimiSizes:
    """Sizes of a Qwen2 trunk with an audio branch."""

    vocabulary_size: int
    first_code: int
    """Id of codec id 0; the codec's ids are the last of the vocabulary."""
    hidden_size: int
    intermediate_size: int
    num_layers: int
    """Trunk layers."""
    num_audio_layers: int
    """Layers of the audio branch."""
    branch_layer: int
    """Trunk layer, counted from 0, whose output the audio branch starts from."""
    num_heads: int
    num_key_value_heads: int
    audio_delay: int
    """Blanks at the beginning of the audio stream of an answer."""
    feature_size: int
    """Width of the Whisper features beside the user's codes; 0 where the network takes none."""
    rope_theta: float
    rms_norm_eps: float = 1e-6
    max_positions: int = 8192

    @property
    def num_codes(self) -> int:
        """Size of the codec vocabulary."""
        return self.vocabulary_size - self.first_code

    def check(self) -> None:
        """Raise CheckpointError where the numbers do not fit one another."""
        layers = (self.num_layers, self.num_audio_layers)
        if min(self.hidden_size, self.intermediate_size, *layers, self.num_heads, self.num_key_value_heads) < 1:
            raise CheckpointError("every size must be at least 1")
        if min(self.audio_delay, self.feature_size) < 0:
            raise CheckpointError("audio_delay and feature_size cannot be negative")
        if not 0 <= self.branch_layer < self.num_layers:
            raise CheckpointError(f"branch_layer {self.branch_layer} is none of the {self.num_layers} trunk layers")
        check_heads(self.hidden_size, self.num_heads, self.num_key_value_heads)
        if not 0 < self.first_code < self.vocabulary_size:
            raise CheckpointError(f"codes from id {self.first_code} do not fit {self.vocabulary_size} ids")

    def transformers_config(self) -> Qwen2Config:
        """Configuration of the decoder layers, trunk first, then the audio branch."""
        return qwen2_config(self, num_layers=self.num_layers + self.num_audio_layers, tied=False)

    def public_config(self) -> dict[str, Any]:
        """The size part of a `config.json` in the public layout."""
        config = {
            "architectures": [NETWORK_NAME],
            "model_type": MODEL_TYPE,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "kimia_audio_output_vocab": self.num_codes,
            "kimia_mimo_audiodelaytokens": self.audio_delay,
            "kimia_mimo_layers": self.num_audio_layers,
            "kimia_mimo_transformer_from_layer_index": self.branch_layer,
            "kimia_text_output_vocab": self.first_code,
            "kimia_token_offset": self.first_code,
            "max_position_embeddings": self.max_positions,
            "num_attention_heads": self.num_heads,
            "num_hidden_layers": self.num_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": False,
            "use_whisper_feature": self.feature_size > 0,
            "vocab_size": self.vocabulary_size,
        }
        return config | ({"kimia_adaptor_input_dim": self.feature_size} if self.feature_size else {})


PRESETS: dict[str, Preset[KimiSizes]] = {
    "tiny": Preset(
        KimiSizes(
            vocabulary_size=0,
            first_code=0,
            hidden_size=128,
            intermediate_size=320,
            num_layers=4,
            num_audio_layers=2,
            branch_layer=1,
            num_heads=4,
            num_key_value_heads=2,
            audio_delay=6,
            feature_size=0,
            rope_theta=10_000.0,
        ),
        num_codes=512,
    ),
    "7b": Preset(
        KimiSizes(
            vocabulary_size=0,
            first_code=0,
            hidden_size=3584,
            intermediate_size=18944,
            num_layers=28,
            num_audio_layers=6,
            branch_layer=21,
            num_heads=28,
            num_key_value_heads=4,
            audio_delay=6,
            feature_size=5120,
            rope_theta=1_000_000.0,
        ),
        num_codes=16384,
    ),
}
"""`tiny` trains on a CPU and hears through codes alone; `7b` has the sizes of the public checkpoints."""


def read_public_config(folder: str) -> dict[str, Any]:
    """Read `config.json` of a checkpoint folder; raises CheckpointError when it is not of this family."""
    config, path = read_config(folder), Path(folder) / "config.json"
    found = names(config, "architectures", str(path))
    if NETWORK_NAME not in found:
        raise CheckpointError(f"{path}: architectures is {found}, type kimi reads {NETWORK_NAME!r}")
    return config


def sizes_of_config(config: dict[str, Any], where: str) -> KimiSizes:
    """Sizes from a public config; raises CheckpointError on a missing or unsupported entry."""
    if config.get("rope_scaling") or config.get("use_sliding_window"):
        raise CheckpointError(f"{where}: rope_scaling and sliding windows are not supported")
    if config.get("tie_word_embeddings"):
        raise CheckpointError(f"{where}: tied embeddings are not supported, the two heads are weights of their own")
    rope = mapping(config, "rope_parameters", where) or config
    # What the public configuration class says where a file says nothing; the rest must be written out.
    features = config.get("use_whisper_feature", True)
    sizes = KimiSizes(
        vocabulary_size=whole(config, "vocab_size", where),
        first_code=whole(config, "kimia_token_offset", where),
        hidden_size=whole(config, "hidden_size", where),
        intermediate_size=whole(config, "intermediate_size", where),
        num_layers=whole(config, "num_hidden_layers", where),
        num_audio_layers=whole(config, "kimia_mimo_layers", where),
        branch_layer=whole(config, "kimia_mimo_transformer_from_layer_index", where, least=0),
        num_heads=whole(config, "num_attention_heads", where),
        num_key_value_heads=whole(config, "num_key_value_heads", where),
        audio_delay=whole(config, "kimia_mimo_audiodelaytokens", where, least=0),
        feature_size=whole(config, "kimia_adaptor_input_dim", where) if features else 0,
        rope_theta=real(rope, "rope_theta", where),
        rms_norm_eps=real(config, "rms_norm_eps", where),
        max_positions=whole(config, "max_position_embeddings", where),
    )
    sizes.check()
    return sizes
