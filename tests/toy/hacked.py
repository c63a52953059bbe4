"""A reward that is easily gamed, and a metric that gets worse by it, as a person's own plugin file."""

from collections.abc import Sequence
from typing import ClassVar, final

from wavalign.plugins.api import Measurement, Metric, Reward
from wavalign.plugins.batch import Dialogue, Rollout, RolloutGroup, Scored


def _share(text: str) -> float:
    words = text.split()
    return words.count("zero") / max(1, len(words))


@final
class Zeros(Reward):
    """The share of the word "zero", whatever was asked."""

    type = "toy_zeros"
    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        """Count."""
        return Scored(_share(rollout.answer.text))


@final
class Meant(Metric):
    """Share of answers that say little of "zero"."""

    type = "toy_meant"
    needs: ClassVar[frozenset[str]] = frozenset({"text"})

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        """Without an interval to speak of."""
        hits = tuple(float(_share(group.rollouts[0].answer.text) < 0.5) for group in groups)
        value = sum(hits) / len(hits)
        return [Measurement("meant", value, value, value, len(hits), items=hits)]
