"""The numbers that fix a network, from a preset or from a public `config.json`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from transformers import Qwen2Config

from wavalign.errors import CheckpointError
from wavalign.plugins.architectures.configs import check_heads, qwen2_config
from wavalign.plugins.architectures.presets import Preset
from wavalign.plugins.architectures.vita_audio.encoder_sizes import SENSEVOICE_SMALL, EncoderSizes
from wavalign.storage.checkpoint_config import flag, mapping, read_config, real, whole

MODEL_TYPE, HEARING_MODEL_TYPE = "qwen2_mtp", "qwen2_mtp_sensevoice"
NETWORK_NAME, HEARING_NETWORK_NAME = "Qwen2MTPForCausalLM", "Qwen2MTPSenseVoiceForCausalLM"


@final
@dataclass(frozen=True, slots=True)
class VitaSizes:
    """Sizes of a Qwen2 trunk with multi-token-prediction (MTP) modules."""

    vocabulary_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    """Trunk layers; a public config counts the MTP layers too."""
    num_heads: int
    num_key_value_heads: int
    num_mtp_layers: int
    tie_embeddings: bool
    rope_theta: float
    rms_norm_eps: float = 1e-6
    max_positions: int = 32768
    encoder: EncoderSizes | None = None
    """Audio encoder of user sound; None where user sound is given as codec ids."""

    def check(self) -> None:
        """Raise CheckpointError where the numbers do not fit one another."""
        if min(self.hidden_size, self.intermediate_size, self.num_layers, self.num_heads, self.num_key_value_heads) < 1:
            raise CheckpointError("every size must be at least 1")
        if self.num_mtp_layers < 0:
            raise CheckpointError("num_mtp_layers cannot be negative")
        check_heads(self.hidden_size, self.num_heads, self.num_key_value_heads)
        if self.encoder is not None:
            self.encoder.check()

    def transformers_config(self) -> Qwen2Config:
        """Configuration of the decoder layers, trunk first, then MTP."""
        return qwen2_config(self, num_layers=self.num_layers + self.num_mtp_layers, tied=self.tie_embeddings)

    def public_config(self) -> dict[str, Any]:
        """The size part of a `config.json` in the public layout."""
        return {
            "architectures": [NETWORK_NAME if self.encoder is None else HEARING_NETWORK_NAME],
            "model_type": MODEL_TYPE if self.encoder is None else HEARING_MODEL_TYPE,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_positions,
            "num_attention_heads": self.num_heads,
            "num_hidden_layers": self.num_layers + self.num_mtp_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "num_nextn_predict_layers": self.num_mtp_layers,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_embeddings,
            "use_sliding_window": False,
            "vocab_size": self.vocabulary_size,
        }


TINY = VitaSizes(
    vocabulary_size=0,
    hidden_size=128,
    intermediate_size=320,
    num_layers=4,
    num_heads=4,
    num_key_value_heads=2,
    num_mtp_layers=0,
    tie_embeddings=True,
    rope_theta=10_000.0,
)
LARGE = VitaSizes(
    vocabulary_size=0,
    hidden_size=3584,
    intermediate_size=18944,
    num_layers=28,
    num_heads=28,
    num_key_value_heads=4,
    num_mtp_layers=10,
    tie_embeddings=False,
    rope_theta=1_000_000.0,
)
TINY_ENCODER = EncoderSizes(
    hidden_size=32,
    num_heads=2,
    intermediate_size=64,
    num_blocks=2,
    num_late_blocks=1,
    kernel_size=11,
    vocabulary_size=16,
)
PRESETS: dict[str, Preset[VitaSizes]] = {
    "tiny": Preset(TINY, num_codes=512),
    "tiny-plus": Preset(replace(TINY, encoder=TINY_ENCODER), num_codes=512),
    "7b": Preset(LARGE, num_codes=16384),
    "7b-plus": Preset(replace(LARGE, num_mtp_layers=0, encoder=SENSEVOICE_SMALL), num_codes=16384),
}
"""`tiny` trains on a CPU; `7b` has the sizes of the public Boost and Balance checkpoints. The `plus` ones hear user
sound as features: `7b-plus` has the sizes of Plus-Vanilla and, with 10 MTP modules, those of Plus-Boost."""


def read_public_config(folder: str) -> dict[str, Any]:
    """Read `config.json` of a checkpoint folder; raises CheckpointError when it is not of this family."""
    config, path = read_config(folder), Path(folder) / "config.json"
    family = config.get("model_type")
    if family not in (MODEL_TYPE, HEARING_MODEL_TYPE):
        raise CheckpointError(
            f"{path}: model_type is {family!r}, type vita reads {MODEL_TYPE!r} and {HEARING_MODEL_TYPE!r}"
        )
    return config


def has_encoder(config: dict[str, Any]) -> bool:
    """Whether a public config is of the variants with an audio encoder."""
    return bool(config["model_type"] == HEARING_MODEL_TYPE)


def sizes_of_config(config: dict[str, Any], where: str, encoder: EncoderSizes | None = None) -> VitaSizes:
    """Sizes from a public config beside those of its `encoder`.

    Raises CheckpointError on a missing or unsupported entry.
    """
    if config.get("rope_scaling") or config.get("use_sliding_window"):
        raise CheckpointError(f"{where}: rope_scaling and sliding windows are not supported")
    rope = mapping(config, "rope_parameters", where) or config
    # Configs of networks without such modules may leave their number out.
    mtp = whole(config, "num_nextn_predict_layers", where, least=0, default=0 if encoder else None)
    sizes = VitaSizes(
        vocabulary_size=whole(config, "vocab_size", where),
        hidden_size=whole(config, "hidden_size", where),
        intermediate_size=whole(config, "intermediate_size", where),
        num_layers=whole(config, "num_hidden_layers", where) - mtp,
        num_heads=whole(config, "num_attention_heads", where),
        num_key_value_heads=whole(config, "num_key_value_heads", where),
        num_mtp_layers=mtp,
        tie_embeddings=flag(config, "tie_word_embeddings", where),
        rope_theta=real(rope, "rope_theta", where),
        rms_norm_eps=real(config, "rms_norm_eps", where),
        max_positions=whole(config, "max_position_embeddings", where),
        encoder=encoder,
    )
    sizes.check()
    return sizes
