"""Where dialogues come from."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, final

from pydantic import BeforeValidator, Field, field_validator, model_validator

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


OWN_FAMILIES = ("rollouts", "prompts", "demonstrations", "samples", "evaluation")
"""Names that mean something already."""


@final
class DataSection(Section):
    """Prompts the policy answers, demonstrations the anchor imitates, and held-out splits to measure on."""

    prompts: Sources | None = None
    """What the policy answers in rollouts."""
    demonstrations: Sources | None = None
    """Dialogues with a target, for losses on demonstrations; may be fewer than the prompts, may be the same."""
    families: Mapping[Name, Sources] = Field(default_factory=dict)
    """Further dialogues to learn from, by a name of one's own that a term's `family` refers to, e.g. `pairs`."""
    samples: Sources | None = None
    """Answers that a `pairs` stage makes pairs of: what `generate` stages wrote, or files of such records."""
    evaluation: Annotated[Mapping[Name, Sources], BeforeValidator(_as_splits)] = Field(default_factory=dict)
    """Held-out splits by name; a single source is the split `heldout`."""
    max_prompt_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    """Longest prompt of `prompts`, `demonstrations` and `families`; null bounds it by the model's positions."""
    max_target_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    """Longest answer of `demonstrations` and `families`; null bounds prompt and answer by the model's positions."""
    too_long: Literal["refuse", "drop"] = "refuse"
    """What becomes of longer records of all but `evaluation`: an error before training, or left out and counted.
    Nothing is ever cut, and held-out records are never left out."""

    @field_validator("families")
    @classmethod
    def _not_taken(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in (each for each in value if each.casefold() in OWN_FAMILIES):
            raise ValueError(f"`{name}` is a reserved name: choose another one for a family of rows")
        return value

    @model_validator(mode="after")
    def _asks(self) -> Self:
        """Sides are of answers to learn from."""
        for sources in (self.prompts or (), *self.evaluation.values()):
            if any(isinstance(each.ask, Mapping) for each in sources):
                raise ValueError("prompts and held-out data are asked in one way: give `ask` as one text")
        return self

    @property
    def learned(self) -> dict[str, tuple[WeightedComponent, ...]]:
        """Sources of the families of rows that come from data, by name."""
        own = {} if self.demonstrations is None else {"demonstrations": self.demonstrations}
        return {**own, **self.families}
