"""How fast a run's steps were and where their time went: medians of what every step logged."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from wavalign.engine.report.data import MetricLine, RunData

OPERATOR, SECONDS = "operator/", "_seconds"
LEAST = 0.005
"""Share of a step below which operators stand together in one row."""
RATES: Mapping[str, str] = {
    "tokens_per_second": "tokens of rows",
    "samples_per_second": "rows",
    **{f"learned/{kind}_tokens_per_second": f"{kind} tokens learned from" for kind in ("prompt", "text", "audio")},
    "learned/marks_tokens_per_second": "marks learned from",
    **{f"sampled/{kind}_tokens_per_second": f"{kind} tokens, while sampling" for kind in ("text", "audio")},
    "sampled/marks_tokens_per_second": "marks, while sampling",
}
"""Key -> what is counted, a second."""


@final
@dataclass(frozen=True, slots=True)
class OperatorRow:
    """An operator's time in a step."""

    name: str
    seconds: float
    share: float
    """Of the step; operators beside others can come to more than all of it."""


@final
@dataclass(frozen=True, slots=True)
class StageSpeed:
    """The steps of a stage."""

    stage: str
    steps: int
    """That are counted: all but the first, which warms up, where there are more."""
    seconds: float
    """Of a step."""
    rates: tuple[tuple[str, float], ...]
    """What, and how many of it a second."""
    flops: float | None
    """Operations of the model a second of learning."""
    mfu: float | None
    operators: tuple[OperatorRow, ...]
    """The longest first."""


def speeds(run: RunData) -> list[StageSpeed]:
    """Of every stage that logged times of its operators."""
    stages = dict.fromkeys(line.stage for line in run.train)
    found = [_speed(name, [line for line in run.train if line.stage == name]) for name in stages]
    return [each for each in found if each.operators]


def _speed(stage: str, lines: Sequence[MetricLine]) -> StageSpeed:
    later = lines[1:] or lines
    medians = {key: statistics.median(line.values[key] for line in later if key in line.values) for key in _keys(later)}
    whole = medians.get("step_seconds", 0.0)
    rates = tuple((what, medians[key]) for key, what in RATES.items() if medians.get(key))
    operators = {
        key.removeprefix(OPERATOR).removesuffix(SECONDS): value
        for key, value in medians.items()
        if key.startswith(OPERATOR)
    }
    flops, mfu = (medians.get(key) for key in ("model_flops_per_second", "mfu"))
    return StageSpeed(stage, len(later), whole, rates, flops, mfu, _rows(operators, whole))


def _keys(lines: Sequence[MetricLine]) -> list[str]:
    return list(dict.fromkeys(key for line in lines for key in line.values))


def _rows(operators: Mapping[str, float], whole: float) -> tuple[OperatorRow, ...]:
    if not whole:
        return ()
    rows = [OperatorRow(name, took, took / whole) for name, took in operators.items()]
    shown = sorted((row for row in rows if row.share >= LEAST), key=lambda row: -row.seconds)
    rest = [row for row in rows if row.share < LEAST]
    if rest:
        shown.append(OperatorRow(f"{len(rest)} others", sum(r.seconds for r in rest), sum(r.share for r in rest)))
    return tuple(shown)
