"""How different the answers to one prompt are, where several are drawn.

`distinct` is the number of different answers over the number drawn; `code_distance` the edit distance of two answers'
audio codes over the longer one's length, mean over all pairs of a group: 0 for the same sound, 1 for nothing in common.
Both fall when a policy collapses. Groups of one answer are left out: set `evaluation.sampling.group_size`.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import final

from wavalign.plugins.api import Measurement, Metric
from wavalign.plugins.batch import RolloutGroup
from wavalign.plugins.metrics.intervals import share
from wavalign.plugins.speech.word_errors import edit_distance
from wavalign.schema.base import Params

_DISTINCT = "Different answers (words and codes) over answers drawn to one prompt."
_DISTANCE = "Edit distance of the codes of two answers to one prompt over the longer one's length, mean over pairs."


@final
class DiversityParams(Params):
    """No options."""


@final
class Diversity(Metric):
    """Means over groups, with Wilson intervals."""

    Params = DiversityParams
    needs = frozenset({"text"})

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        return self.conclude(groups, self.observe(groups))

    def observe(self, groups: Sequence[RolloutGroup]) -> list[list[float | None]]:
        return [[_distinct(group), _distance(group)] for group in groups]

    def conclude(self, groups: Sequence[RolloutGroup], observed: Sequence[Sequence[float | None]]) -> list[Measurement]:
        found = (
            share("distinct", [pair[0] for pair in observed], unit="of those drawn", says=_DISTINCT),
            share("code_distance", [pair[1] for pair in observed], unit="of the length", says=_DISTANCE),
        )
        return [replace(each, quality=False) for each in found]


def _distinct(group: RolloutGroup) -> float | None:
    answers = [(each.answer.text, each.answer.codes) for each in group.rollouts]
    return len(set(answers)) / len(answers) if len(answers) > 1 else None


def _distance(group: RolloutGroup) -> float | None:
    """Mean over pairs of which one has codes; None where there is none."""
    pairs = list(combinations([each.answer.codes for each in group.rollouts], 2))
    found = [edit_distance(a, b) / max(len(a), len(b)) for a, b in pairs if a or b]
    return sum(found) / len(found) if found else None
