"""Where the time of a run's steps went: the operators of every rank, for a trace viewer, and what stands out.

The trace is the JSON of Chrome's trace viewer and of Perfetto: a process is a rank, a thread the main one or an
operator beside it. Ranks are laid beside one another by their clocks, which on several nodes need not agree.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from wavalign.engine.state.timeline import FOLDER
from wavalign.errors import DataError

REWARD = "reward."
ALONE = ("rollout", "decode_audio", "forward")
"""Operators in which a rank mostly works by itself; in others it waits for slower ones."""
SLOW_RANK, SLOW_REWARD = 1.25, 0.5
"""A rank is slow that takes so many times the median of all; a reward that takes so much of a step."""
_FEW = 3
"""Steps below which nobody is called slow; the first one warms up."""


@final
@dataclass(frozen=True, slots=True)
class TimedStep:
    """The operators of one step on one rank."""

    stage: str
    step: int
    rank: int
    start: float
    """Seconds since 1970."""
    spans: Sequence[tuple[str, int, float, float]]
    """Operator, lane, milliseconds from the start, milliseconds."""

    @property
    def milliseconds(self) -> float:
        """From the first to the last."""
        return max((after + took for _, _, after, took in self.spans), default=0.0)


def read_timeline(folder: Path) -> list[TimedStep]:
    """The steps that a run kept, of a step that was done again the last; raises DataError where there is none."""
    found: dict[tuple[int, str, int], TimedStep] = {}
    for path in sorted((folder / FOLDER).glob("rank-*.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, text in enumerate(lines, 1):
            try:
                step = TimedStep(**json.loads(text))
            except (ValueError, TypeError) as error:
                if number == len(lines):
                    continue  # the last one may be torn: the run was killed
                raise DataError(f"{path}:{number} is no step of a timeline: {error}") from error
            found[step.rank, step.stage, step.step] = step
    if not found:
        raise DataError(f"{folder} kept no times of operators", hint="set runtime.trace_every: 10 and run again")
    return sorted(found.values(), key=lambda each: (each.start, each.rank))


def trace(steps: Sequence[TimedStep]) -> dict[str, Any]:
    """Chrome's trace events, in microseconds from the first step."""
    zero = min(each.start for each in steps)
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": rank, "args": {"name": f"rank {rank}"}}
        for rank in sorted({each.rank for each in steps})
    ]
    for each in steps:
        at = 1e6 * (each.start - zero)
        named = {"stage": each.stage, "step": each.step}
        whole = {"ph": "X", "name": f"step {each.step}", "pid": each.rank, "tid": 0, "ts": at, "args": named}
        events.append(whole | {"dur": 1000 * each.milliseconds})
        events += [
            {"ph": "X", "name": operator, "pid": each.rank, "tid": lane, "ts": at + 1000 * after, "dur": 1000 * took,
             "args": named}
            for operator, lane, after, took in each.spans
        ]  # fmt: skip
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def operator_times(steps: Sequence[TimedStep]) -> dict[str, dict[int, float]]:
    """Operator -> rank -> median milliseconds a step, the longest first; the first step counts where it is alone."""
    later = _warm(steps)
    by_rank: dict[str, dict[int, list[float]]] = {}
    for each in later:
        sums: dict[str, float] = {}
        for operator, _, _, took in each.spans:
            sums[operator] = sums.get(operator, 0.0) + took
        for operator, took in sums.items():
            by_rank.setdefault(operator, {}).setdefault(each.rank, []).append(took)
    medians = {name: {rank: statistics.median(took) for rank, took in found.items()} for name, found in by_rank.items()}
    return dict(sorted(medians.items(), key=lambda pair: -max(pair[1].values())))


def what_is_slow(steps: Sequence[TimedStep]) -> list[str]:
    """Ranks that others wait for, and rewards that take most of a step, in sentences; none of too few steps."""
    later = _warm(steps)
    if len({(each.stage, each.step) for each in later}) < _FEW:
        return []
    times, whole = operator_times(steps), statistics.median(each.milliseconds for each in later)
    return [*_slow_ranks(times), *_slow_rewards(times, whole)]


def _slow_ranks(times: Mapping[str, Mapping[int, float]]) -> Iterable[str]:
    alone = {name: found for name, found in times.items() if name in ALONE or name.startswith(REWARD)}
    ranks = sorted({rank for found in alone.values() for rank in found})
    total = {rank: sum(found.get(rank, 0.0) for found in alone.values()) for rank in ranks}
    middle = statistics.median(total.values()) if total else 0.0
    for rank, took in total.items():
        if len(ranks) > 1 and middle and took > SLOW_RANK * middle:
            at = max(alone, key=lambda name: alone[name].get(rank, 0.0))
            yield f"rank {rank} takes {took / middle:.1f} times the median of all ranks, most of it in {at}"


def _slow_rewards(times: Mapping[str, Mapping[int, float]], whole: float) -> Iterable[str]:
    for name, found in times.items():
        took = max(found.values())
        if name.startswith(REWARD) and took > SLOW_REWARD * whole:
            yield f"{name} takes {took / 1000:.2f} s of a step of {whole / 1000:.2f} s"


def _warm(steps: Sequence[TimedStep]) -> Sequence[TimedStep]:
    first = {stage: min(each.step for each in steps if each.stage == stage) for stage in {x.stage for x in steps}}
    later = [each for each in steps if each.step != first[each.stage]]
    return later or steps
