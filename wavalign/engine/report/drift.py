"""Whether the training reward rises while a held-out value that does not come from it gets worse.

Both are tested since the first measurement of the stage: the reward by Kendall's rank correlation of its steps with
time (one-sided), the value on the same items by the paired tests of `paired.py`. Each of these has to be significant by
itself, at .05 over the number of measurements that the stage will make: over a whole stage a reward that rises and
values that only wander raise an alarm in at most one run of twenty (about one in forty, for half of what wanders
gets better). p of the values is corrected for their number (Holm).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from scipy.stats import kendalltau

from wavalign.engine.report.paired import SIGNIFICANT, Items, holm, paired_p, said_p

FEWEST_STEPS = 10
"""Steps from which a reward is said to rise."""


@final
@dataclass(frozen=True, slots=True)
class Rise:
    """A training reward that went up."""

    first: float
    """Mean over the first third of the steps."""
    last: float
    """Mean over the last third."""
    p: float


@final
@dataclass(frozen=True, slots=True)
class Drift:
    """A value that got worse while the reward rose."""

    split: str
    name: str
    since: int
    """Step of the first measurement."""
    before: float
    after: float
    """Means over the items that both measurements have."""
    p: float
    """Corrected for looking at several values."""
    reward: Rise

    def __str__(self) -> str:
        rise = f"rose ({self.reward.first:.3g} to {self.reward.last:.3g}, p {said_p(self.reward.p)})"
        way = "fell" if self.after < self.before else "rose, where less is better,"
        change = f"{way} on the same items ({self.before:.3g} to {self.after:.3g}, p {said_p(self.p)})"
        return (
            f"drift: since step {self.since} the training reward {rise}, while {self.split}/{self.name}, which has "
            f"another instrument, {change}: the policy may be gaming the reward; listen to answers before you go on"
        )


def rise(rewards: Sequence[float], *, looks: int) -> Rise | None:
    """How `rewards` of steps went up; None where it is not shown that they did, at .05 over `looks`."""
    if len(rewards) < FEWEST_STEPS or len(set(rewards)) == 1:
        return None
    found = kendalltau(range(len(rewards)), rewards, alternative="greater")
    third = len(rewards) // 3
    first, last = sum(rewards[:third]) / third, sum(rewards[-third:]) / third
    p = float(found.pvalue)
    return Rise(first, last, p) if p < SIGNIFICANT / looks and last > first else None


def drifts(
    rewards: Sequence[float],
    before: Mapping[str, Items],
    after: Mapping[str, Items],
    *,
    less: Sequence[str] = (),
    looks: int = 1,
    where: tuple[str, int] = ("heldout", 0),
) -> list[Drift]:
    """The values of `after` that are worse than `before`, item by item, while `rewards` rose.

    `less` names values of which less is better; `looks` is how often the stage asks; `where` the split and the step of
    the first measurement.
    """
    risen = rise(rewards, looks=looks)
    if risen is None:
        return []
    compared = {name: paired_p(after[name], items) for name, items in before.items() if name in after}
    known = {name: p for name, p in compared.items() if p is not None}
    found = []
    for name, p in zip(known, holm(list(known.values())), strict=True):
        start, now = _means(before[name], after[name])
        worse = now > start if name in less else now < start
        if worse and p < SIGNIFICANT / looks:
            found.append(Drift(where[0], name, where[1], start, now, p, risen))
    return found


def _means(before: Items, after: Items) -> list[float]:
    """Of the items that both have."""
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    return [sum(column) / len(pairs) for column in zip(*pairs, strict=True)]
