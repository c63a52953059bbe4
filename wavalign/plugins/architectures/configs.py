"""What families share: sizes that fit one another, decoder layers, and the groups of parameters."""

from collections.abc import Mapping
from typing import Any, Protocol

from transformers import Qwen2Config

from wavalign.errors import CheckpointError


class DecoderSizes(Protocol):
    """The numbers of Qwen2 decoder layers."""

    @property
    def vocabulary_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def num_key_value_heads(self) -> int: ...
    @property
    def rope_theta(self) -> float: ...
    @property
    def rms_norm_eps(self) -> float: ...
    @property
    def max_positions(self) -> int: ...


def qwen2_config(sizes: DecoderSizes, *, num_layers: int, tied: bool) -> Qwen2Config:
    """Configuration of `num_layers` decoder layers of these sizes."""
    config = Qwen2Config(
        vocab_size=sizes.vocabulary_size,
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_key_value_heads,
        rope_parameters={"rope_type": "default", "rope_theta": sizes.rope_theta},
        rms_norm_eps=sizes.rms_norm_eps,
        max_position_embeddings=sizes.max_positions,
        tie_word_embeddings=tied,
    )
    config._attn_implementation = "sdpa"
    return config


def check_heads(hidden_size: int, num_heads: int, num_key_value_heads: int) -> None:
    """Raise CheckpointError where the heads, 1 or more, do not divide what they are to divide."""
    if hidden_size % (2 * num_heads):
        raise CheckpointError(f"hidden_size {hidden_size} is no even multiple of num_heads {num_heads}")
    if num_heads % num_key_value_heads:
        raise CheckpointError(f"num_heads {num_heads} is no multiple of num_key_value_heads {num_key_value_heads}")


def check_given_sizes(given: Mapping[str, Any], fixed: Mapping[str, Any], folder: str) -> None:
    """Sizes in a recipe may repeat those of its checkpoint; raise CheckpointError where they contradict them."""
    wrong = [f"{name} {value} (not {fixed[name]})" for name, value in given.items() if value != fixed[name]]
    if wrong:
        raise CheckpointError(
            f"{folder} fixes the sizes, but the recipe sets {', '.join(wrong)}",
            hint="remove them from model.architecture, or start from a preset",
        )


def group_by_prefix(name: str, groups: Mapping[str, str]) -> str:
    """The group of the first prefix that a parameter's name begins with; ValueError where it begins with none."""
    for prefix, group in groups.items():
        if name.startswith(prefix):
            return group
    raise ValueError(f"{name} is no parameter of this architecture")
