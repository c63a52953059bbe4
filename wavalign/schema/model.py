"""Which model is trained."""

from typing import Literal, final

from wavalign.schema.base import RecipePath, Section
from wavalign.schema.component import Component

ParameterGroup = Literal["embed", "trunk", "text_head", "audio_head", "audio_branch", "mtp", "encoder", "projector"]


@final
class ModelSection(Section):
    """Architecture, weights, and the codec that turns sound into its audio tokens and back."""

    architecture: Component
    """Model family: how dialogues become tokens and what the network looks like."""
    checkpoint: RecipePath | None = None
    """Weights, config and tokenizer in the family's original layout: a folder, or `hf://org/name[@revision][/folder]`,
    `s3://...`, `gs://...`, `https://...`. Give this or `preset`."""
    preset: str | None = None
    """A named size with random weights, for training from scratch."""
    tokenizer: RecipePath | None = None
    """Base tokenizer (`tokenizer.json` or its folder) for a preset; a checkpoint brings its own."""
    codec: Component | None = None
    """Sound to tokens and back. Needed as soon as data holds audio or something listens."""
    freeze: tuple[ParameterGroup, ...] | None = None
    """Parameter groups that are not trained; omitted, those the architecture keeps frozen (an encoder)."""
    allow_pickles: bool = False
    """Read weights in `.bin` or `.pt` files, in torch's way that takes tensors and nothing else; safetensors need no
    leave."""
