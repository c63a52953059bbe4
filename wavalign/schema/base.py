"""What every section of a recipe and every plugin's `Params` is built from."""

from typing import Annotated, Any, final

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen, strict record: unknown keys are errors and field docstrings are its documentation."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        validate_default=True,
    )


class Params(Section):
    """Base of a plugin's own options; lives in the plugin's file."""


@final
class PathMark:
    """Marks a string field as a path: relative ones count from the file that wrote them."""

    def __init__(self, *, made: bool = False) -> None:
        """`made` paths are made when they are not there; the others must be."""
        self.made = made


RecipePath = Annotated[str, PathMark()]
"""A file, folder or fsspec URL. Relative paths are anchored at the recipe file they stand in."""

MadePath = Annotated[str, PathMark(made=True)]
"""The same for what a run writes: it need not be there."""

Tree = dict[str, Any]
"""A plain YAML mapping."""
