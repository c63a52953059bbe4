"""The whole recipe, loaded."""

from typing import final

from pydantic import Field, model_validator

from wavalign.schema.base import RecipePath, Section
from wavalign.schema.bounds import Seed
from wavalign.schema.runtime import RuntimeSection
from wavalign.schema.stage import Stage


@final
class Recipe(Section):
    """A recipe after `extends`, overrides and the merging of stages.

    In the file the sections of `StageSections` may stand at the top level, shared by all stages; `stages` may be
    omitted, which means one `train` stage named `train` made of them.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)
    """Name of the run's folder and of the report."""
    description: str = ""
    """One or two sentences for `wavalign recipes list` and the report."""
    seed: Seed = 0
    """The one seed; every generator derives from it."""
    plugins: tuple[RecipePath, ...] = Field(default=(), max_length=100)
    """Python files with one's own plugins."""
    runtime: RuntimeSection = RuntimeSection()
    """Processes, precision, folders."""
    stages: tuple[Stage, ...] = Field(min_length=1, max_length=1000)
    """What is done, in order."""

    @model_validator(mode="after")
    def _stages_refer_backwards(self) -> "Recipe":
        seen: list[str] = []
        for stage in self.stages:
            if stage.name in seen:
                raise ValueError(f"two stages are named '{stage.name}'")
            if stage.start is not None and stage.start not in seen:
                raise ValueError(f"stage '{stage.name}' starts from '{stage.start}', which is not an earlier stage")
            seen.append(stage.name)
        return self
