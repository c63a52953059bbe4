"""Two sets of answers to the same questions, compared item by item.

One run against one run: shares by McNemar's exact test (the binomial test on the items that only one of the two got
right), other values by the permutation test that flips the sign of each item's difference; the interval is the
percentile bootstrap over items. Several seeds: an item is paired within its seed, and seeds and items are resampled
together, each with replacement (the pigeonhole bootstrap of crossed factors), the seeds' deviations widened by
sqrt(S / (S - 1)) for their small number; interval and p are of that. It rather says too little than too much, and with
two or three seeds the spread between seeds is known roughly only.

Sources: McNemar (1947); Owen, "The pigeonhole bootstrap" (2007); Holm (1979).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, permutation_test

RESAMPLES = 9_999
"""Of the bootstrap, and of the permutation test where not all flips can be tried."""
SIGNIFICANT = 0.05
FEWEST, MOST_DRAWN = 999, 5_000_000
"""Of very many items fewer resamples are drawn: at least so many, and else no more than so many items in all."""
_DRAWN = 1_000_000
"""Items drawn at a time, to bound memory."""

Items = Sequence[float | None]
"""Outcomes of one run in the order of the items; None where an item has none."""
Numbers = npt.NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How much A lies above B on the items that both have."""

    difference: float
    """Mean of A minus mean of B over the pairs."""
    low: float
    high: float
    """95 % interval of the difference."""
    p: float
    """Probability of a difference at least as large where there is none; two-sided."""
    count: int
    """Pairs, over all seeds."""
    seeds: int
    only_a: int | None
    """Of shares, pairs that A has right and B wrong; None for other values."""
    only_b: int | None
    """The reverse."""
    method: str

    def shown(self, *, p: float | None = None) -> bool:
        """Whether a difference is shown; `p` stands for its own where many are looked at (see `holm`)."""
        return (self.p if p is None else p) < SIGNIFICANT and self.difference != 0


def paired(items_a: Items, items_b: Items, *, resamples: int = RESAMPLES) -> PairedDifference | None:
    """Compare one run with one; `items_b[i]` answers the question of `items_a[i]`. None without a single pair."""
    return paired_seeds([items_a], [items_b], resamples=resamples)


def paired_seeds(
    runs_a: Sequence[Items], runs_b: Sequence[Items], *, resamples: int = RESAMPLES
) -> PairedDifference | None:
    """Compare several seeds of A with the same of B, all on the same items; None without a single pair.

    Raises ValueError where the two have another number of runs, or their runs another number of items.
    """
    a, b = _table(runs_a), _table(runs_b)
    if a.shape != b.shape:
        raise ValueError(f"{a.shape[0]} runs of {a.shape[1]} items cannot be paired with {b.shape[0]} of {b.shape[1]}")
    there = ~(np.isnan(a) | np.isnan(b))
    # What no run has says nothing, and a seed without a pair is none.
    rows, columns = there.any(axis=1), there.any(axis=0)
    a, b, there = a[rows][:, columns], b[rows][:, columns], there[rows][:, columns]
    if not there.any():
        return None
    left, right = a[there], b[there]
    resamples = min(resamples, max(FEWEST, MOST_DRAWN // a.shape[1]))
    is_share = bool(np.isin(left, (0.0, 1.0)).all() and np.isin(right, (0.0, 1.0)).all())
    only_a, only_b = int(((left == 1) & (right == 0)).sum()), int(((left == 0) & (right == 1)).sum())
    drawn = _bootstrap(np.where(there, a - b, 0.0), there, resamples)
    low, high = (float(each) for each in np.quantile(drawn, (0.025, 0.975)))
    seeds = int(a.shape[0])
    if seeds > 1:
        p, method = _bootstrap_p(drawn), "bootstrap over items and seeds"
    elif is_share:
        p, method = _mcnemar(only_a, only_b), "McNemar's exact test; bootstrap over items"
    else:
        p, method = _flipped(left, right, resamples), "paired permutation test; bootstrap over items"
    return PairedDifference(
        difference=float((left - right).mean()),
        low=low,
        high=high,
        p=p,
        count=int(there.sum()),
        seeds=seeds,
        only_a=only_a if is_share else None,
        only_b=only_b if is_share else None,
        method=method,
    )


def paired_p(items_a: Items, items_b: Items, *, resamples: int = RESAMPLES) -> float | None:
    """The p of `paired` alone, which takes no time to speak of for shares; None without a single pair."""
    pairs = [(a, b) for a, b in zip(items_a, items_b, strict=True) if a is not None and b is not None]
    if not pairs:
        return None
    left, right = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
    if np.isin(left, (0.0, 1.0)).all() and np.isin(right, (0.0, 1.0)).all():
        return _mcnemar(int(((left == 1) & (right == 0)).sum()), int(((left == 0) & (right == 1)).sum()))
    return _flipped(left, right, min(resamples, max(FEWEST, MOST_DRAWN // len(items_a))))


def holm(ps: Sequence[float]) -> list[float]:
    """p values corrected for looking at all of them, by Holm's step-down method."""
    corrected, largest = [1.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda each: ps[each])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        corrected[index] = largest
    return corrected


def sentence(
    found: PairedDifference, a: str, b: str, *, places: int = 3, p: float | None = None, lower_is_better: bool = False
) -> str:
    """What a comparison says: `A better than B by 0.123 [0.045, 0.200], p = 0.003`, or that nothing is shown."""
    used = found.p if p is None else p
    numbers = f"[{_fixed(found.low, places)}, {_fixed(found.high, places)}], p {said_p(used)}"
    if not found.shown(p=p):
        return f"no difference shown between {a} and {b}: {_fixed(found.difference, places)} {numbers}"
    size, word = f"{abs(found.difference):.{places}f}", "worse" if lower_is_better else "better"
    if found.difference < 0:
        numbers = f"[{_fixed(-found.high, places)}, {_fixed(-found.low, places)}], p {said_p(used)}"
    first, second = (a, b) if found.difference > 0 else (b, a)
    return f"{first} {word} than {second} by {size} {numbers}"


def said_p(p: float) -> str:
    """`= 0.012`, or `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _fixed(value: float, places: int) -> str:
    shown = f"{value:.{places}f}"
    return shown.removeprefix("-") if float(shown) == 0 else shown.replace("-", "−")


def _table(runs: Sequence[Items]) -> Numbers:
    """Runs [S, I], NaN where there is no outcome."""
    lengths = {len(run) for run in runs}
    if len(lengths) != 1:
        raise ValueError(f"runs of one arm must have the same items; these have {sorted(lengths)}")
    return np.array([[math.nan if each is None else float(each) for each in run] for run in runs], dtype=np.float64)


def _mcnemar(only_a: int, only_b: int) -> float:
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def _flipped(left: Numbers, right: Numbers, resamples: int) -> float:
    """p of the test that exchanges the two outcomes of an item at random; exact where all ways can be tried."""
    differences = left - right
    if not differences.any() or len(differences) == 1:  # of one item, both ways are as far apart
        return 1.0
    if 2 ** len(differences) <= resamples:
        exact = permutation_test(
            (left, right),
            lambda x, y, axis: (x - y).mean(axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=resamples,
        )
        return float(exact.pvalue)
    generator, found, reached = np.random.default_rng(0), abs(float(differences.sum())), 0
    for size in _chunks(resamples, len(differences)):
        signs = generator.integers(0, 2, size=(size, len(differences)), dtype=np.int8).astype(np.float64) * 2 - 1
        # Sums of the same numbers in another order differ in their last digits.
        reached += int((np.abs(signs @ differences) >= found * (1 - 1e-12)).sum())
    return (reached + 1) / (resamples + 1)


def _bootstrap(differences: Numbers, there: npt.NDArray[np.bool_], resamples: int) -> Numbers:
    """Means [R] of resampled `differences` [S, I], of which those `there` count."""
    seeds, items = differences.shape
    generator = np.random.default_rng(0)  # the same numbers give the same words
    present = there.astype(np.float64)
    if seeds > 1:
        own = differences.sum(axis=1, keepdims=True) / present.sum(axis=1, keepdims=True)
        widened = (math.sqrt(seeds / (seeds - 1)) - 1) * (own - own.mean())
        differences = np.where(there, differences + widened, 0.0)
    drawn = []
    for size in _chunks(resamples, items):
        of_seeds = generator.multinomial(seeds, [1 / seeds] * seeds, size=size).astype(np.float64)
        chosen = generator.integers(0, items, size=(size, items), dtype=np.int32)
        total = np.take_along_axis(of_seeds @ differences, chosen, axis=1).sum(axis=1)
        count = np.full(size, float(seeds * items))
        if not there.all():
            count = np.take_along_axis(of_seeds @ present, chosen, axis=1).sum(axis=1)
        drawn.append(total[count > 0] / count[count > 0])
    return np.concatenate(drawn)


def _chunks(resamples: int, items: int) -> Iterator[int]:
    """Resamples at a time."""
    size = max(1, _DRAWN // items)
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def _bootstrap_p(drawn: Numbers) -> float:
    """Two-sided p of no difference: how often a resample lies on the other side of it."""
    side = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (side + 1) / (len(drawn) + 1))
