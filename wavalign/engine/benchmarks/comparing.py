"""Two models on the same questions, question by question: differences, who wins how often, and what is shown."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from wavalign.engine.benchmarks.evaluating import SCORES, SUMMARY
from wavalign.engine.report.paired import PairedDifference, holm, paired, sentence
from wavalign.engine.state.files import read_json
from wavalign.errors import DataError, UsageError


@final
@dataclass(frozen=True, slots=True)
class Compared:
    """One value of A against B."""

    name: str
    a: float
    """Mean over the common questions."""
    b: float
    found: PairedDifference
    p: float
    """Corrected for all values that are looked at (Holm)."""
    wins: int
    """Questions on which A is better."""
    ties: int
    losses: int
    less: bool

    def sentence(self, a: str, b: str) -> str:
        """What it says."""
        return sentence(self.found, a, b, p=self.p, lower_is_better=self.less)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        count = self.found.count
        return {
            "a": self.a,
            "b": self.b,
            "difference": self.found.difference,
            "low": self.found.low,
            "high": self.found.high,
            "p": self.found.p,
            "p_holm": self.p,
            "method": self.found.method,
            "count": count,
            "only_a": self.found.only_a,
            "only_b": self.found.only_b,
            "wins": self.wins / count,
            "ties": self.ties / count,
            "losses": self.losses / count,
            "better": "less" if self.less else "more",
        }


@final
@dataclass(frozen=True, slots=True)
class Comparison:
    """Two evaluations side by side."""

    a: str
    """Model A, in words."""
    b: str
    common: int
    """Questions that both answered."""
    only_a: int
    """Questions that A alone answered."""
    only_b: int
    values: Sequence[Compared]
    equal: Mapping[str, float]
    """Values that are the same on every common question -> their mean. They are no further looks."""
    unpaired: Sequence[str]
    """Values that no common question has on both sides."""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "a": self.a,
            "b": self.b,
            "common": self.common,
            "only_a": self.only_a,
            "only_b": self.only_b,
            "values": {each.name: each.as_json() for each in self.values},
            "equal": dict(self.equal),
            "unpaired": list(self.unpaired),
        }


def compare_folders(a: Path, b: Path) -> Comparison:
    """Compare two evaluations; raises UsageError where they have no question in common."""
    (about_a, lines_a), (about_b, lines_b) = _read(a), _read(b)
    keys = [key for key in lines_a if key in lines_b]
    if not keys:
        raise UsageError(
            f"{a} and {b} have no question in common", hint="evaluate both models on the same data, asked alike"
        )
    found, equal, unpaired = list[Compared](), dict[str, float](), list[str]()
    values = about_a.get("values")
    known: Mapping[str, Any] = values if isinstance(values, Mapping) else {}
    for name, about in known.items():
        columns = [[lines[key]["values"].get(name) for key in keys] for lines in (lines_a, lines_b)]
        pairs = [(x, y) for x, y in zip(*columns, strict=True) if x is not None and y is not None]
        if not pairs:
            unpaired.append(name)
        elif all(x == y for x, y in pairs):
            equal[name] = sum(x for x, _ in pairs) / len(pairs)
        else:
            found.append(_compared(name, pairs, less=about.get("better") == "less"))
    corrected = holm([each.found.p for each in found])
    return Comparison(
        a=str(about_a.get("model", a)),
        b=str(about_b.get("model", b)),
        common=len(keys),
        only_a=len(lines_a) - len(keys),
        only_b=len(lines_b) - len(keys),
        values=[replace(each, p=p) for each, p in zip(found, corrected, strict=True)],
        equal=equal,
        unpaired=unpaired,
    )


def _compared(name: str, pairs: Sequence[tuple[float, float]], *, less: bool) -> Compared:
    found = paired(*zip(*pairs, strict=True))
    assert found is not None
    higher, lower = sum(x > y for x, y in pairs), sum(x < y for x, y in pairs)
    wins, losses = (lower, higher) if less else (higher, lower)
    a, b = (sum(pair[side] for pair in pairs) / len(pairs) for side in (0, 1))
    return Compared(name, a, b, found, found.p, wins, len(pairs) - wins - losses, losses, less)


def _read(folder: Path) -> tuple[Mapping[str, Any], dict[str, Mapping[str, Any]]]:
    """The summary of an evaluation, and its lines by what was asked."""
    if not (folder / SUMMARY).is_file() or not (folder / SCORES).is_file():
        raise UsageError(
            f"{folder} holds no evaluation that is complete",
            hint="`wavalign evaluate MODEL --on DATA --out FOLDER` writes one, or ends one that was interrupted",
        )
    lines: dict[str, Mapping[str, Any]] = {}
    for number, text in enumerate((folder / SCORES).read_text(encoding="utf-8").splitlines(), start=1):
        try:
            line = json.loads(text)
            key, values = str(line["key"]), line["values"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder / SCORES}:{number}: no score: {error!r}", hint="evaluate again") from error
        if not isinstance(values, dict):
            raise DataError(f"{folder / SCORES}:{number}: `values` is no object", hint="evaluate again")
        lines[key] = line
    return read_json(folder / SUMMARY), lines
