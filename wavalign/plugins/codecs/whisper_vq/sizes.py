"""Sizes of a tokenizer, read from its `config.json`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from wavalign.errors import CheckpointError
from wavalign.storage.checkpoint_config import MOST, read_config

_CHOICES = {"pooling_type": "avg", "encoder_causal_convolution": True, "activation_function": "gelu"}
"""What this network does where the family leaves a choice; a config may be silent on it, not of another opinion."""


@final
@dataclass(frozen=True, slots=True)
class VqSizes:
    """Sizes of the network up to its code book."""

    hidden: int
    heads: int
    intermediate: int
    layers: int
    """Layers before the code book; a checkpoint may hold more, which ids do not depend on."""
    num_mels: int
    positions: int
    """Frames of 20 ms the positions reach."""
    pooling: int
    """Frames of 20 ms in a code."""
    num_codes: int
    block: int
    """Frames of 20 ms in a block; a frame sees its own block and those before."""


def read_sizes(folder: str) -> VqSizes:
    """Sizes of the tokenizer in `folder`; CheckpointError when its config is missing, torn or of another kind."""
    return sizes_of_config(read_config(folder), f"{folder}/config.json")


def sizes_of_config(config: Mapping[str, Any], where: str) -> VqSizes:
    """Sizes that `config` states; `where` names it in errors."""
    wrong = [f"{name} {config[name]!r}" for name, value in _CHOICES.items() if config.get(name, value) != value]
    layers = _number(config, "quantize_position" if "quantize_position" in config else "encoder_layers", where)
    if config.get("pooling_position", layers) != layers:
        wrong.append(f"pooling_position {config['pooling_position']} (its codes come after layer {layers})")
    if wrong:
        raise CheckpointError(f"{where}: not a GLM-4-Voice tokenizer: {', '.join(wrong)}")
    return VqSizes(
        hidden=_number(config, "d_model", where),
        heads=_number(config, "encoder_attention_heads", where),
        intermediate=_number(config, "encoder_ffn_dim", where),
        layers=layers,
        num_mels=_number(config, "num_mel_bins", where),
        positions=_number(config, "max_source_positions", where),
        pooling=_number(config, "pooling_kernel_size", where),
        num_codes=_number(config, "quantize_vocab_size", where),
        block=_number(config, "quantize_causal_block_size", where),
    )


def _number(config: Mapping[str, Any], name: str, where: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST:
        raise CheckpointError(
            f"{where}: not a GLM-4-Voice tokenizer: {name} is {value!r}",
            hint="give the folder of glm-4-voice-tokenizer",
        )
    return value
