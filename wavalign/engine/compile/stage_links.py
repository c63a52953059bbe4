"""Which earlier stage a stage takes up: the weights or codec it starts from, the answers that its data sources read."""

from collections.abc import Sequence

from wavalign.engine.compile.plan import StagePlan
from wavalign.schema.component import Component, WeightedComponent
from wavalign.schema.reward import RewardSection
from wavalign.schema.stage import Stage
from wavalign.schema.stage_kinds import KINDS

WRITTEN = "stage://"
"""Begins the address of what a stage writes, in a plan; a run knows the folder."""


def start_of(stages: Sequence[Stage], index: int) -> str | None:
    """Name of the stage that the one at `index` starts from: what it says, or the last before it that leaves any."""
    before = (each.name for each in reversed(stages[:index]) if KINDS[each.type].is_start)
    return stages[index].start or next(before, None)


def start_in_plan(stages: Sequence[StagePlan], stage: StagePlan) -> str | None:
    """The same of a plan's stages."""
    return start_of([each.stage for each in stages], list(stages).index(stage))


def codec_before(stages: Sequence[StagePlan], stage: StagePlan) -> bool:
    """Whether a codec is fitted before a stage runs: until then nobody knows the tokens of its sound."""
    return any(each.kind.leaves == "codec" for each in stages[: list(stages).index(stage)])


def writer_of(component: Component) -> str | None:
    """Name of the stage whose work a data source or reward takes up; None for what is there before the run."""
    return component.stage if isinstance(component, WeightedComponent | RewardSection) else None
