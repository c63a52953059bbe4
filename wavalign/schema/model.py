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
    """Folder with weights, config and tokenizer in the family's original layout. Give this or `preset`."""
    preset: str | None = None
    """A named size with random weights, for training from scratch."""
    tokenizer: RecipePath | None = None
    """Base tokenizer (`tokenizer.json` or its folder) for a preset; a checkpoint brings its own."""
    codec: Component | None = None
    """Sound to tokens and back. Needed as soon as data holds audio or something listens."""
    nar: Component | None = None
    """Completes the codec's frames where the architecture writes only the first ids of each; never trained."""
    freeze: tuple[ParameterGroup, ...] | None = None
    """Parameter groups that are not trained; omitted, those the architecture keeps frozen (an encoder)."""
