"""Lines of evaluation.jsonl: what came of every held-out item, and the same items of two evaluations side by side."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from wavalign.engine.report.paired import PairedDifference, holm, paired_p, paired_seeds
from wavalign.engine.state.folder import RunFolder
from wavalign.redaction import REDACTOR

Key = tuple[str, int]
"""What tells an item: its dialogue's id and, where a split holds one several times, the how manieth it is."""


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """One held-out item at one evaluation."""

    stage: str
    step: int
    split: str
    item: int
    dialogue: str
    question: str
    text: str
    reference: str | None
    finished: bool | None
    values: Mapping[str, float | None]
    details: Mapping[str, str | float | None]
    points: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    """By value and cloud, its place in the plane of a picture."""


Split = Mapping[Key, Outcome]
"""One evaluation of one split."""


@final
@dataclass(frozen=True, slots=True)
class Ends:
    """The first and the last evaluation of a split; the same where there was one only."""

    first: Split
    last: Split
    by_stage: Mapping[str, Split] = field(default_factory=dict)
    """The last evaluation of every stage that measured it, in order."""


def read_outcomes(folder: Path, notes: list[str]) -> dict[str, Ends]:
    """First and last evaluation of every split in a run's `folder`; what cannot be read is left out with a note."""
    first: dict[str, list[Outcome]] = {}
    last: dict[str, dict[str, list[Outcome]]] = {}
    for each in outcomes_in(RunFolder(folder).evaluation, notes):
        known = first.setdefault(each.split, [])
        if not known or _when(known[0]) == _when(each):
            known.append(each)
        stages = last.setdefault(each.split, {})
        newest = stages.pop(each.stage, [])
        if newest and _when(newest[0]) != _when(each):
            newest = []
        newest.append(each)
        stages[each.stage] = newest  # the stage that was seen last stands last
    ends = {}
    for split, stages in last.items():
        by_stage = {stage: keyed(found) for stage, found in stages.items()}
        ends[split] = Ends(keyed(first[split]), list(by_stage.values())[-1], by_stage)
    return ends


def compare(a: Sequence[Split], b: Sequence[Split], value: str) -> PairedDifference | None:
    """How much `value` of `a` lies above that of `b`, on the items all have; one split a seed, seeds in one order.

    None where the items or their outcomes were not kept, or none is common.
    """
    splits = [*a, *b]
    if not splits or not all(splits):
        return None
    keys = [key for key in splits[0] if all(key in split for split in splits[1:])]
    if not keys:
        return None

    def columns(chosen: Sequence[Split]) -> list[list[float | None]]:
        return [[split[key].values.get(value) for key in keys] for split in chosen]

    return paired_seeds(columns(a), columns(b))


def moved(first: Split, last: Split) -> dict[str, float]:
    """By value the p that nothing has changed from `first` to `last`, on the items of both.

    Corrected for looking at all values, and apart from them at all parts of values (Holm). What is right for every
    item, or wrong, before and after, is not looked at.
    """
    keys = [key for key in first if key in last]
    names = dict.fromkeys(name for key in keys for name in last[key].values)
    found: dict[str, float] = {}
    for is_part in (False, True):
        ps: dict[str, float] = {}
        for name in (each for each in names if ("/" in each) == is_part):
            before, after = ([split[key].values.get(name) for key in keys] for split in (first, last))
            p = None if _is_still([*before, *after]) else paired_p(after, before)
            ps |= {} if p is None else {name: p}
        found |= dict(zip(ps, holm(list(ps.values())), strict=True))
    return found


def _is_still(outcomes: Sequence[float | None]) -> bool:
    kinds = {each for each in outcomes if each is not None}
    return len(kinds) == 1 and kinds <= {0.0, 1.0}


def outcomes_in(path: Path, notes: list[str]) -> Iterator[Outcome]:
    """Every line of an evaluation.jsonl; what is none is left out with a note."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as handle:
        for number, line in enumerate(handle, start=1):
            outcome = _outcome(line)
            if outcome is None:
                notes.append(f"{path.name}, line {number} is no outcome of an item; it was left out.")
            else:
                yield outcome


def _outcome(line: str) -> Outcome | None:
    try:
        record = REDACTOR.tree(json.loads(line))
        return Outcome(
            stage=str(record["stage"]),
            step=int(record["step"]),
            split=str(record["split"]),
            item=int(record["item"]),
            dialogue=str(record["dialogue"]),
            question=str(record.get("question") or ""),
            text=str(record.get("text") or ""),
            reference=record["reference"] if isinstance(record.get("reference"), str) else None,
            finished=record.get("finished") if isinstance(record.get("finished"), bool) else None,
            values=values_of(record.get("values")),
            details=details_of(record.get("details")),
            points=_points(record.get("points")),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def values_of(found: Any) -> dict[str, float | None]:
    """The `values` of a line: finite numbers or None."""
    items = found.items() if isinstance(found, dict) else ()
    return {str(name): number(value) for name, value in items}


def _points(found: Any) -> dict[str, dict[str, tuple[float, float]]]:
    """The `points` of a line; raises ValueError or TypeError where a place is not two finite numbers."""
    items = found.items() if isinstance(found, dict) else ()
    return {str(name): {str(cloud): _place(at) for cloud, at in dict(clouds).items()} for name, clouds in items}


def _place(at: Any) -> tuple[float, float]:
    x, y = map(number, at)
    if x is None or y is None:
        raise ValueError("a place is two finite numbers")
    return x, y


def number(value: object) -> float | None:
    """`value` where it is a finite number."""
    try:
        return float(value) if isinstance(value, (int, float)) and value - value == 0 else None
    except OverflowError:  # a whole number without end
        return None


def details_of(found: Any) -> dict[str, str | float | None]:
    """The `details` of a line."""
    items = found.items() if isinstance(found, dict) else ()
    return {str(name): value if isinstance(value, (str, float, int)) else None for name, value in items}


def _when(outcome: Outcome) -> tuple[str, int]:
    return outcome.stage, outcome.step


def keyed(outcomes: Iterable[Outcome]) -> dict[Key, Outcome]:
    """Items by what tells them."""
    seen: dict[str, int] = {}
    found = {}
    for each in outcomes:
        number = seen.get(each.dialogue, 0)
        seen[each.dialogue] = number + 1
        found[each.dialogue, number] = each
    return found
