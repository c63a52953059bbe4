"""Share of answers that the token limit cut off: they never said their end token. Less is better."""

from collections.abc import Sequence
from typing import final

from wavalign.plugins.api import Measurement, Metric
from wavalign.plugins.batch import RolloutGroup
from wavalign.plugins.metrics.intervals import first_rollouts, proportion
from wavalign.schema.base import Params


@final
class NoEndRateParams(Params):
    """No options."""


@final
class NoEndRate(Metric):
    """Answers without an end, with a Wilson interval."""

    Params = NoEndRateParams
    needs = frozenset({"text"})

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        cut = [None if rollout is None else not rollout.answer.finished for rollout in first_rollouts(groups)]
        return [
            proportion("no_end_rate", cut, better="less", says="The token limit cut the answer off; less is better.")
        ]
