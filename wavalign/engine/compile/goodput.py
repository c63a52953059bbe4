"""How much of a cluster's time trains, between failures and checkpoints, and how often to write one.

With failures that come at random (exponential, mean time M between two of the whole job), a checkpoint that holds the
steps up for C seconds after every T seconds of training, and a restart that takes R seconds until training goes on,

    goodput(T) = T / (M exp(R / M) (exp((T + C) / M) - 1))

is the share of time that ends in kept steps. Young's interval sqrt(2 C M) is near its maximum; Daly's is nearer:
sqrt(2 C M) (1 + sqrt(C / 2M) / 3 + (C / 2M) / 9) - C where C < 2M, else M.
A step ends with its slowest rank: of n ranks whose times vary normally by a share s of their mean, it takes
1 + s E[max of n standard normal numbers] of the mean.
Sources: Young (1974), "A first order approximation to the optimum checkpoint interval"; Daly (2006), "A higher order
estimate of the optimum checkpoint interval for restart dumps", Eq. 20 and 37.
"""

import math
from dataclasses import dataclass
from typing import final

HOUR = 3600.0


@final
@dataclass(frozen=True, slots=True)
class Faults:
    """What a cluster and a run cost when something fails; times in seconds."""

    mean_time: float
    """Between two failures of the whole job."""
    checkpoint: float
    """That a checkpoint holds the steps up."""
    restart: float
    """From a failure to the first step again: noticing it, starting, loading."""

    def goodput(self, interval: float) -> float:
        """Share of time that trains where a checkpoint follows every `interval` seconds of training."""
        lost = self.mean_time * math.exp(self.restart / self.mean_time)
        return interval / (lost * math.expm1((interval + self.checkpoint) / self.mean_time))

    @property
    def young(self) -> float:
        """Young's interval, seconds of training between two checkpoints."""
        return math.sqrt(2 * self.checkpoint * self.mean_time)

    @property
    def daly(self) -> float:
        """Daly's interval, seconds of training between two checkpoints."""
        ratio = self.checkpoint / (2 * self.mean_time)
        if ratio >= 1:
            return self.mean_time
        return self.young * (1 + math.sqrt(ratio) / 3 + ratio / 9) - self.checkpoint

    def steps_between(self, step: float) -> int:
        """Whole steps of `step` seconds between two checkpoints, at least one: those with the best goodput."""
        near = max(1, math.floor(self.daly / step))
        return max(near, near + 1, key=lambda steps: self.goodput(steps * step))


def mean_time_between_failures(nodes: int, per_node_hour: float) -> float:
    """Seconds between two failures of a job on `nodes`, each of which fails so often an hour."""
    return HOUR / (nodes * per_node_hour)


def slowest_of(ranks: int, spread: float) -> float:
    """How many times a rank's mean time the slowest of `ranks` takes, their times varying by `spread` of the mean."""
    if ranks == 1 or spread == 0:
        return 1.0
    # E[max] = integral of x d(F^n); by parts over both halves, with F the normal distribution.
    width, top = 1e-3, 9.0
    above = sum(1 - _normal(x * width) ** ranks for x in range(int(top / width))) * width
    below = sum(_normal(-x * width) ** ranks for x in range(int(top / width))) * width
    return 1 + spread * (above - below)


def _normal(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))
