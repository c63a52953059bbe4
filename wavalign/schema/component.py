"""A reference to a plugin: its `type` and, beside it, the plugin's own options."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, final

from pydantic import AfterValidator, Field, model_validator

from wavalign.schema.base import Section
from wavalign.schema.bounds import MOST_WEIGHT


def split_component(value: object, own: frozenset[str]) -> object:
    """Move keys that are not in `own` under `params`, so that `{type: x, a: 1}` reads `{type: x, params: {a: 1}}`.

    A bare string is short for `{type: string}`. Anything else is left for the validator to complain about.
    """
    if isinstance(value, str):
        return {"type": value, "params": {}}
    if not isinstance(value, Mapping):
        return value
    params = {key: item for key, item in value.items() if key not in own}
    return {**{key: item for key, item in value.items() if key in own}, "params": params}


class Component(Section):
    """A plugin of the kind its place asks for; options beside `type` are the plugin's Params."""

    type: str
    """Name of a built-in or installed plugin; `wavalign plugins list` shows them."""
    params: Mapping[str, Any] = Field(default_factory=dict)
    """The plugin's options, checked against its Params when the recipe is compiled. Written beside `type`."""

    @model_validator(mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        fields = frozenset(cls.model_fields)
        if isinstance(value, Mapping) and isinstance(value.get("params"), Mapping) and set(value) <= fields:
            return value  # already split, as in a plan; `params` is therefore no name for an option
        return split_component(value, fields - {"params"})


PLACE = "{text}"
"""Where in a text the question stands."""
Side = Literal["chosen", "rejected"]


def _has_place(text: str) -> str:
    if text.count(PLACE) != 1:
        raise ValueError(f"a text to ask with has {PLACE} in it once, where the question stands")
    return text


Ask = Annotated[str, Field(min_length=1, max_length=10_000), AfterValidator(_has_place)]
"""Words around a question."""


@final
class WeightedComponent(Component):
    """One of several sources mixed under a heading."""

    weight: float = Field(default=1.0, gt=0, le=MOST_WEIGHT)
    """Share of draws from this source, relative to its neighbours."""
    stage: str | None = None
    """Name of an earlier `generate` or `pairs` stage, in place of `path`: read what it wrote (`{type: jsonl, stage:
    NAME}`)."""
    ask: Ask | Annotated[Mapping[Side, Ask], Field(min_length=1)] | None = Field(
        default=None, exclude_if=lambda ask: ask is None
    )
    """Words around what is asked, e.g. `"Say it slowly: {text}"`; around a spoken question they are messages of their
    own. `{chosen: "...{text}", rejected: "...{text}"}` makes every side of a pair a demonstration that is asked for in
    its own words (Chain-of-Hindsight)."""
