"""Which model is trained."""

from typing import Literal, final

from pydantic import Field

from wavalign.schema.base import RecipePath, Section
from wavalign.schema.bounds import MOST_WEIGHT
from wavalign.schema.component import Component

ParameterGroup = Literal["embed", "trunk", "text_head", "audio_head", "audio_branch", "mtp", "encoder", "projector"]

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a decoder layer, by their names in every family."""


@final
class AdapterSection(Section):
    """Small matrices trained beside frozen weights: W x becomes W x + alpha / rank B A x.

    Everything else is frozen, whatever `freeze` says. The stage leaves its model merged, and the adapter by itself.
    """

    type: Literal["lora", "dora"] = "lora"
    """`lora` adds B A; `dora` also trains the length of each row of W + alpha / rank B A."""
    rank: int = Field(default=16, ge=1, le=1 << 16)
    """Rows of A and columns of B."""
    alpha: float = Field(default=32.0, gt=0, le=MOST_WEIGHT)
    """Scale: the product is multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of A's inputs set to 0 in training; never while sampling or for the reference."""
    targets: tuple[str, ...] = Field(default=PROJECTIONS, min_length=1, max_length=100)
    """Last names of the linear layers that get one."""
    groups: tuple[ParameterGroup, ...] = Field(default=("trunk",), min_length=1, max_length=8)
    """Parameter groups whose layers get one: trunk, audio_branch, mtp, encoder, projector."""
    also_train: tuple[ParameterGroup, ...] = Field(default=(), max_length=8)
    """Parameter groups trained in full beside the adapter, e.g. projector or text_head."""


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
    nar: Component | None = None
    """Completes the codec's frames where the architecture writes only the first ids of each; never trained."""
    freeze: tuple[ParameterGroup, ...] | None = Field(default=None, max_length=8)
    """Parameter groups that are not trained; omitted, those the architecture keeps frozen (an encoder)."""
    adapter: AdapterSection | None = None
    """Train low-rank adapters (LoRA, DoRA) instead of the weights themselves."""
    allow_pickles: bool = False
    """Read weights in `.bin` or `.pt` files, in torch's way that takes tensors and nothing else; safetensors need no
    leave."""
