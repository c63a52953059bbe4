"""Rubrics: what a judge is asked, on which scale, and in which form it must answer. YAML files that a person edits."""

import functools
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, final

from pydantic import Field, model_validator

from wavalign.errors import PreflightError, RecipeError, WavAlignError
from wavalign.schema.base import Section
from wavalign.schema.loading import read_params
from wavalign.schema.source import read_source

FOLDER = Path(__file__).with_name("rubrics")
"""Of the rubrics that come along."""
Hears = Literal["answer", "both", "nothing"]
WHY = "justification"
"""Name of the words that a judge gives beside its numbers."""
_Text = Annotated[str, Field(max_length=20_000)]
_Name = Annotated[str, Field(pattern=r"^[a-z][a-z_-]{0,39}$")]


@final
class Axis(Section):
    """One number that a judge gives."""

    weight: float = Field(default=1.0, gt=0, le=1e6)
    """How much it counts beside the other numbers of the rubric."""
    says: _Text = ""
    """What the number stands for, in a few words."""


@final
class RubricStep(Section):
    """One request: what to judge, and the numbers asked for."""

    instructions: _Text = Field(min_length=1)
    """What to look at, and what each number of the scale means."""
    axes: Mapping[_Name, Axis] = Field(min_length=1)
    """The numbers asked for, by name, in the order in which they are given."""
    passes: float | None = None
    """Lowest mean of the axes with which the next step is asked; one that is not asked counts as the lowest number.
    Omitted, the next is always asked."""


@final
class Rubric(Section):
    """What a judge is asked."""

    about: _Text = ""
    """What it judges, in a line."""
    scale: tuple[int, int] = (1, 5)
    """Lowest and highest number, from 0 to 100."""
    halves: bool = False
    """Whether 3.5 is a number of the scale; otherwise whole ones alone are."""
    form: Literal["tags", "json"] = "tags"
    """`tags`: `<name>4</name>` for every axis. `json`: one object with a field for every axis."""
    justify: bool = True
    """Whether the judge gives its reasons, before the numbers."""
    hears: Hears = "answer"
    """What is sent as sound where the recipe does not say: the answer, `both` question and answer, or `nothing`."""
    reads: bool = True
    """Whether the answer's text is shown; it always is where nothing is heard."""
    shows: Mapping[str, _Text] = Field(default_factory=dict)
    """Metadata keys of the dialogue that are shown, with what they are, e.g. `{reference: a right answer}`."""
    instructions: _Text = ""
    """What holds for every step."""
    steps: Mapping[_Name, RubricStep] = Field(min_length=1)
    """One request each, in this order."""

    @model_validator(mode="after")
    def _sound(self) -> "Rubric":
        low, high = self.scale
        if not 0 <= low < high <= 100:
            raise ValueError("scale rises within 0 and 100, e.g. [1, 5]")
        names = [name for step in self.steps.values() for name in step.axes]
        if len(set(names)) < len(names) or WHY in names:
            raise ValueError(f"axes have names of their own over all steps, none of them `{WHY}`")
        for name, step in self.steps.items():
            if step.passes is not None and not low <= step.passes <= high:
                raise ValueError(f"steps.{name}.passes is {step.passes:g}, outside the scale {low} to {high}")
        return self

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest value."""
        return float(self.scale[0]), float(self.scale[1])

    @property
    def digest(self) -> str:
        """Of all that it says."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    def has(self, value: float) -> bool:
        """Whether `value` is a number of the scale."""
        return self.scale[0] <= value <= self.scale[1] and (float(value) * (1 + self.halves)).is_integer()

    def value(self, found: Mapping[str, float]) -> float:
        """The mean of all axes by weight; one that is not `found` was not asked for and counts as the lowest number."""
        axes = [(name, axis.weight) for step in self.steps.values() for name, axis in step.axes.items()]
        total = sum(weight for _, weight in axes)
        return sum(weight * found.get(name, float(self.scale[0])) for name, weight in axes) / total


def passed(step: RubricStep, found: Mapping[str, float]) -> bool:
    """Whether the next step is asked for behind these numbers."""
    weights = {name: axis.weight for name, axis in step.axes.items()}
    mean = sum(weight * found[name] for name, weight in weights.items()) / sum(weights.values())
    return step.passes is None or mean >= step.passes


def shipped_rubrics() -> list[str]:
    """Names of the rubrics that come along."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_rubric(name: str, file: str | None = None) -> Rubric:
    """The rubric in `file`, or the one of this `name` that comes along; PreflightError says what is wrong with it."""
    path = str(FOLDER / f"{name}.yaml") if file is None else file
    try:
        return _loaded(path, os.stat(path).st_mtime_ns)
    except OSError as error:
        hint = f"there are {', '.join(shipped_rubrics())}; a file of your own is named by `rubric_file`"
        raise PreflightError(f"the rubric {path} cannot be read: {error.strerror}", hint=hint) from error


@functools.lru_cache(maxsize=64)
def _loaded(path: str, _changed: int) -> Rubric:
    try:
        source = read_source(path)
        rubric, problems = read_params(Rubric, source.tree, prefix=(), source=source)
        if rubric is None or problems:
            raise RecipeError(problems)
    except RecipeError as error:
        raise PreflightError(f"the rubric {path} is wrong: {'; '.join(_said(error))}", hint="docs/judge.md") from error
    return rubric


def _said(error: WavAlignError) -> Iterator[str]:
    problems = error.problems if isinstance(error, RecipeError) else ()
    for each in problems:
        place = "" if each.where is None else f"line {each.where.line}, "
        yield f"{place}{each.path or 'it'}: {each.message}" + (f" ({each.hint})" if each.hint else "")
