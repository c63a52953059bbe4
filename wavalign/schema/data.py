"""Where dialogues come from."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, final

from pydantic import BeforeValidator, Field

from wavalign.schema.base import Section
from wavalign.schema.bounds import MOST_TOKENS, Name
from wavalign.schema.component import WeightedComponent


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _as_splits(value: Any) -> Any:
    one = isinstance(value, list | str) or (isinstance(value, dict) and "type" in value)
    return {"heldout": value} if one else value


Sources = Annotated[tuple[WeightedComponent, ...], BeforeValidator(_as_list), Field(min_length=1, max_length=1000)]
"""One source, or a list of sources mixed by `weight`."""


@final
class DataSection(Section):
    """Prompts the policy answers, demonstrations the anchor imitates, and held-out splits to measure on."""

    prompts: Sources | None = None
    """What the policy answers in rollouts."""
    demonstrations: Sources | None = None
    """Dialogues with a target, for losses on demonstrations; may be fewer than the prompts, may be the same."""
    evaluation: Annotated[Mapping[Name, Sources], BeforeValidator(_as_splits)] = Field(default_factory=dict)
    """Held-out splits by name; a single source is the split `heldout`."""
    max_prompt_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    """Longest prompt of `prompts` and `demonstrations`; null bounds it by the places that the model has."""
    max_target_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    """Longest answer of `demonstrations`; null bounds prompt and answer by the places that the model has."""
    too_long: Literal["refuse", "drop"] = "refuse"
    """What becomes of longer records of `prompts` and `demonstrations`: an error before training, or left out and
    counted. Nothing is ever cut, and held-out records are never left out."""
