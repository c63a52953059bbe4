"""The card of a reward model: what it judges, what its tokens mean, and how often it was right.

`reward_model.json` stands beside `network/` (weights and files of the architecture) and `heads.safetensors`.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, final

from pydantic import Field, ValidationError

from wavalign.errors import PreflightError
from wavalign.plugins.api import Architecture, Codec
from wavalign.schema.base import Section
from wavalign.schema.component import Component

CARD, NETWORK, HEADS = "reward_model.json", "network", "heads.safetensors"


@final
class TokenIdentity(Section):
    """What the ids of a network mean: equal for two whose rows are the same rows."""

    vocabulary_size: int
    pad: int
    streams: tuple[str, ...]
    num_codes: int
    frame_codes: int | None
    texts: str
    """Sum over what every id stands for."""

    @classmethod
    def of(cls, architecture: Architecture) -> "TokenIdentity":
        """That of an architecture over its tokenizer."""
        space, digest = architecture.tokens, hashlib.sha256()
        for token in range(space.vocabulary_size):
            digest.update(architecture.token_text(token).encode() + b"\0")
        return cls(
            vocabulary_size=space.vocabulary_size,
            pad=space.pad,
            streams=space.streams,
            num_codes=space.num_codes,
            frame_codes=space.frame_codes,
            texts=digest.hexdigest()[:16],
        )


@final
class CodecIdentity(Section):
    """Which sound the codes of a network mean."""

    type: str
    fingerprint: str

    @classmethod
    def of(cls, component: Component | None, codec: Codec | None) -> "CodecIdentity | None":
        """That of a constructed codec; None where there is none."""
        return None if component is None or codec is None else cls(type=component.type, fingerprint=codec.fingerprint())


@final
class FacetCard(Section):
    """One thing that is judged."""

    name: str
    head: str
    unit: Literal["token", "sequence"]
    """Of what a number of its head is."""
    mask: Component
    """The tokens that a mean is over."""
    mean: float
    """Of its rewards of the held-out answers, chosen and rejected."""
    std: float


@final
class RewardCard(Section):
    """All that is known of a reward model beside its weights."""

    format: Literal[1] = 1
    architecture: Component
    tokens: TokenIdentity
    codec: CodecIdentity | None = None
    """None where it learned without one."""
    facets: tuple[FacetCard, ...] = Field(min_length=1)
    fingerprint: str
    """Sum of its weights, heads among them."""
    stage: str
    recipe: str
    seed: int
    steps: int
    """After which the weights were left."""
    dialogues: Mapping[str, int]
    """By family, how many were drawn in these steps."""
    held_out: Mapping[str, Mapping[str, float]]
    """By split what was measured, as in metrics.jsonl."""


def read_card(folder: Path, address: str) -> RewardCard:
    """The card in a local folder; PreflightError naming `address` where there is none that can be read."""
    hint = "name the folder that a reward_model stage left: RUN/stages/NAME/reward_model"
    try:
        return RewardCard.model_validate_json((folder / CARD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PreflightError(f"{address} is no reward model: it has no {CARD}", hint=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise PreflightError(f"{address}/{CARD} cannot be read: {error}", hint=hint) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise PreflightError(f"{address}/{CARD} is damaged: {place}: {first['msg']}", hint=hint) from error


def token_problem(theirs: TokenIdentity, ours: TokenIdentity) -> str:
    """How the tokens of a reward model differ from those of what it is to score; empty where they are the same."""
    if theirs.streams != ours.streams:
        return f"has the streams {', '.join(theirs.streams)}, and the policy {', '.join(ours.streams)}"
    for name, what in (("vocabulary_size", "ids"), ("num_codes", "codes"), ("frame_codes", "ids of every frame")):
        one, other = theirs.model_dump()[name], ours.model_dump()[name]
        if one != other:
            return f"knows {'all' if one is None else one} {what}, and the policy {'all' if other is None else other}"
    if (theirs.pad, theirs.texts) != (ours.pad, ours.texts):
        return "has another tokenizer than the policy: its ids stand for other words"
    return ""


def codec_problem(theirs: CodecIdentity | None, ours: CodecIdentity | None) -> str:
    """How the codecs differ; empty where they are the same, or one has none."""
    if theirs is None or ours is None or theirs == ours:
        return ""
    if theirs.type != ours.type:
        return f"learned from the codes of codec {theirs.type}, and the policy speaks in those of {ours.type}"
    return f"learned from the codes of another codec {theirs.type} than the policy's: its tables or options differ"
