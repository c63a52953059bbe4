"""Named sizes for random weights, and the base tokenizer they need."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar, final

from transformers import PreTrainedTokenizerFast

from wavalign.errors import CheckpointError
from wavalign.plugins.api import ModelSource
from wavalign.plugins.architectures.tokenizers import open_tokenizer

P = TypeVar("P")
S = TypeVar("S")


@final
@dataclass(frozen=True, slots=True)
class Preset(Generic[S]):
    """A named size; the text vocabulary comes from the base tokenizer."""

    sizes: S
    num_codes: int


def open_preset(source: ModelSource, presets: Mapping[str, P], *, type_: str) -> tuple[P, PreTrainedTokenizerFast]:
    """The preset that `source` names and the opened base tokenizer; CheckpointError where either is lacking."""
    if source.preset is None or source.preset not in presets:
        raise CheckpointError(f"no preset {source.preset!r} for type {type_}", hint=f"one of {', '.join(presets)}")
    if source.tokenizer is None:
        raise CheckpointError("random weights need a base tokenizer", hint="set model.tokenizer")
    return presets[source.preset], open_tokenizer(source.tokenizer)
