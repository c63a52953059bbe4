"""A reference to a plugin: its `type` and, beside it, the plugin's own options."""

from collections.abc import Mapping
from typing import Any, final

from pydantic import Field, model_validator

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


@final
class WeightedComponent(Component):
    """One of several sources mixed under a heading."""

    weight: float = Field(default=1.0, gt=0, le=MOST_WEIGHT)
    """Share of draws from this source, relative to its neighbours."""
    stage: str | None = None
    """Name of an earlier `generate` or `pairs` stage, in place of `path`: read what it wrote (`{type: jsonl, stage:
    NAME}`)."""
