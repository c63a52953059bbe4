"""How a judge agrees with people about the same answers, with itself when it is asked again, and what else moves it.

Of one asking, as a run asks: correlations are means over the askings, differences means over answers and askings. All
intervals are percentiles of a bootstrap over prompts, for answers to one prompt are not independent of each other.
Letters: R askings, N answers, all float64, NaN where there is no value.

- pearson, spearman: over all answers; spearman_within: within each prompt that has `FEWEST` answers and differences on
  both sides, then the mean over prompts (intra-ID Spearman).
- mae, within_one, bias: of the judge minus people, both on the people's scale.
- self_sd: standard deviation of an answer's askings; self_agreement: share of pairs of askings with equal values;
  self_icc: intraclass correlation ICC(1) of one-way analysis of variance; noise: pooled variance within answers.
- order: slope of a value, within its answer, on when it was asked (0 first, 1 last in the pass, or in the call where
  several are judged together); every other pass goes backwards, so that each answer is asked early and late.
- length (words, seconds): partial correlation of the judge with an answer's length, given what people gave; that is
  also the one of judge minus people. The slope beside it is of the judge, per ten words or ten seconds more.

Sources: WavAlign (arXiv 2604.14932, App. A.2); Shrout and Fleiss, "Intraclass correlations" (1979).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Numbers = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]
Statistic = Callable[[Places], float]
"""Of the answers at these places, which may come several times; NaN where they do not say."""
RESAMPLES = 1000
FEWEST = 3
"""Answers to a prompt from which they are ranked."""
MOST_DIFFERENT = 1.0
"""How far `within_one` may lie apart."""
_ROUNDING = 1e-9


@final
@dataclass(frozen=True, slots=True)
class Judged:
    """Answers with the word of people and of a judge."""

    judge: Numbers
    """[R, N] in the judge's unit."""
    people: Numbers
    """[N] on the people's scale."""
    prompts: Sequence[str]
    """[N] which prompt each answers."""
    places: Numbers
    """[R, N] when each was asked, 0 to 1."""
    lengths: Mapping[str, Numbers]
    """By unit (`words`, `seconds`), [N]."""
    span: tuple[float, float] | None
    """Lowest and highest value of the judge; None where it is not bounded."""
    scale: tuple[float, float]
    """Of the people."""

    @property
    def scaled(self) -> Numbers:
        """[R, N] the judge on the people's scale; all NaN where its range cannot be mapped."""
        if self.span is None:
            return np.full_like(self.judge, math.nan)
        (low, high), (to_low, to_high) = self.span, self.scale
        return np.asarray(to_low + (self.judge - low) * (to_high - to_low) / (high - low), dtype=np.float64)

    @property
    def clusters(self) -> list[Places]:
        """The answers of each prompt."""
        found: dict[str, list[int]] = {}
        for index, prompt in enumerate(self.prompts):
            found.setdefault(prompt, []).append(index)
        return [np.array(each, dtype=np.intp) for each in found.values()]

    def part(self, at: Places) -> "Judged":
        """The answers at these places alone."""
        return Judged(
            self.judge[:, at],
            self.people[at],
            [self.prompts[each] for each in at.tolist()],
            self.places[:, at],
            {unit: length[at] for unit, length in self.lengths.items()},
            self.span,
            self.scale,
        )


@final
@dataclass(frozen=True, slots=True)
class Found:
    """A statistic with its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float
    count: int


def agreement(
    judged: Judged, errors: Mapping[str, Numbers] | None = None, *, resamples: int = RESAMPLES, whole: bool = True
) -> dict[str, Found]:
    """Every statistic by name; with `whole` false those alone that a part of the answers is compared by.

    `errors` [R, N] by name: further means over answers.
    """
    made = _of_people(judged)
    for name, table in ({} if errors is None else errors).items():
        made[name] = (_column_mean(_mean_of(table)), int((~np.isnan(table)).any(axis=0).sum()))
    if whole:
        made |= {**_of_itself(judged), **_of_length(judged)}
    everywhere = np.arange(len(judged.people), dtype=np.intp)
    drawn = _drawn(judged.clusters, resamples)
    found = {name: _found(of, everywhere, drawn, count) for name, (of, count) in made.items()}
    values, _ = within_prompts(judged)
    found["spearman_within"] = _mean_over_prompts(values, resamples)
    return found


def within_prompts(judged: Judged) -> tuple[list[float], dict[str, int]]:
    """Rank correlations of prompts, and why other prompts have none."""
    values, left = list[float](), dict[str, int]()
    for cluster in judged.clusters:
        reason = _unranked(judged, cluster)
        if reason:
            left[reason] = left.get(reason, 0) + 1
            continue
        each = [_correlation(row[cluster], judged.people[cluster], ranked=True) for row in judged.judge]
        values.append(_mean(np.array(each)))
    return values, left


def _unranked(judged: Judged, cluster: Places) -> str:
    rows = [row[cluster][~np.isnan(row[cluster])] for row in judged.judge]
    if len(cluster) < FEWEST:
        return f"fewer than {FEWEST} answers"
    if np.ptp(judged.people[cluster]) == 0:
        return "people gave all answers the same"
    if all(len(row) < FEWEST or np.ptp(row) == 0 for row in rows):
        return "the judge gave all answers the same"
    each = [_correlation(row[cluster], judged.people[cluster], ranked=True) for row in judged.judge]
    return "too few of one asking have a value and differ" if np.isnan(each).all() else ""


def _of_people(judged: Judged) -> dict[str, tuple[Statistic, int]]:
    """Against people."""
    people, count = judged.people, int((~np.isnan(judged.judge)).any(axis=0).sum())
    off = judged.scaled - people
    close = np.where(np.isnan(off), math.nan, np.abs(off) <= MOST_DIFFERENT + _ROUNDING)

    def correlation(ranked: bool) -> Statistic:
        return lambda at: _mean(np.array([_correlation(row[at], people[at], ranked=ranked) for row in judged.judge]))

    columns = {"mae": _mean_of(np.abs(off)), "within_one": _mean_of(close), "bias": _mean_of(off)}
    compared = count if judged.span is not None else 0
    return {
        "pearson": (correlation(False), count),
        "spearman": (correlation(True), count),
        **{name: (_column_mean(column), compared) for name, column in columns.items()},
    }


def _of_itself(judged: Judged) -> dict[str, tuple[Statistic, int]]:
    """Against itself, asked again."""
    judge = judged.judge
    asked = (~np.isnan(judge)).sum(axis=0).astype(np.float64)
    again = asked >= 2
    mean = _mean_of(judge)
    squares = np.where(again, np.nansum((judge - mean) ** 2, axis=0), 0.0)
    spread = np.where(again, np.sqrt(squares / np.maximum(asked - 1, 1)), math.nan)
    same = np.where(again, _equal_pairs(judge), math.nan)
    moved = np.where(again, judged.places - _mean_of(np.where(np.isnan(judge), math.nan, judged.places)), math.nan)
    products = np.nansum((judge - mean) * moved, axis=0)
    distances = np.nansum(np.where(np.isnan(judge), math.nan, moved) ** 2, axis=0)
    free = np.where(again, asked - 1, 0.0)
    count = int(again.sum())
    return {
        "self_sd": (_column_mean(spread), count),
        "self_agreement": (_column_mean(same), count),
        "self_icc": (lambda at: _icc(mean[at], squares[at], asked[at], again[at]), count),
        "noise": (lambda at: _ratio(squares[at].sum(), free[at].sum()), count),
        "order": (lambda at: _ratio(products[at].sum(), distances[at].sum()), count),
    }


def _of_length(judged: Judged) -> dict[str, tuple[Statistic, int]]:
    """What an answer's length adds to what people gave."""
    mean = _mean_of(judged.scaled if judged.span is not None else judged.judge)
    made: dict[str, tuple[Statistic, int]] = {}
    for unit, length in judged.lengths.items():
        there = ~np.isnan(mean) & ~np.isnan(length)
        count = int(there.sum())

        def partial(at: Places, length: Numbers = length, there: npt.NDArray[np.bool_] = there) -> float:
            at = at[there[at]]
            return _partial(mean[at], length[at], judged.people[at])

        def slope(at: Places, length: Numbers = length, there: npt.NDArray[np.bool_] = there) -> float:
            at = at[there[at]]
            return 10 * _slope(mean[at], length[at], judged.people[at])

        made |= {f"length_{unit}": (partial, count), f"per_ten_{unit}": (slope, count)}
    return made


def _equal_pairs(judge: Numbers) -> Numbers:
    """[N] share of pairs of askings with equal values."""
    equal, pairs = np.zeros(judge.shape[1]), np.zeros(judge.shape[1])
    for first in range(len(judge)):
        for second in range(first + 1, len(judge)):
            there = ~np.isnan(judge[first]) & ~np.isnan(judge[second])
            pairs += there
            equal += there & (np.abs(judge[first] - judge[second]) <= _ROUNDING)
    return np.where(pairs > 0, equal / np.maximum(pairs, 1), math.nan)


def _icc(means: Numbers, squares: Numbers, asked: Numbers, again: npt.NDArray[np.bool_]) -> float:
    """ICC(1) of answers that were asked several times, some perhaps more often than others."""
    means, squares, asked = means[again], squares[again], asked[again]
    answers, values = len(means), asked.sum()
    if answers < 2:
        return math.nan
    grand = float((means * asked).sum() / values)
    between = float((asked * (means - grand) ** 2).sum()) / (answers - 1)
    within = float(squares.sum() / (values - answers))
    each = (values - (asked**2).sum() / values) / (answers - 1)
    return _ratio(between - within, between + (each - 1) * within)


def _partial(judge: Numbers, length: Numbers, people: Numbers) -> float:
    return _correlation(_rest(judge, people), _rest(length, people)) if len(judge) > FEWEST else math.nan


def _slope(judge: Numbers, length: Numbers, people: Numbers) -> float:
    """What one more of `length` adds, people's scores being equal."""
    if len(judge) <= FEWEST:
        return math.nan
    rest = _rest(length, people)
    return _ratio(float(rest @ _rest(judge, people)), float(rest @ rest)) if np.ptp(length) else math.nan


def _rest(values: Numbers, given: Numbers) -> Numbers:
    """What a straight line over `given` leaves of `values`; rounding of a perfect line is nothing."""
    values, given = values - values.mean(), given - given.mean()
    square = float(given @ given)
    rest = values - given * (float(given @ values) / square) if square else values
    return np.where(np.abs(rest) <= _ROUNDING * np.abs(values).max(initial=0.0), 0.0, rest)


def _correlation(left: Numbers, right: Numbers, *, ranked: bool = False) -> float:
    """Of the pairs that are there; NaN of fewer than three, or where a side does not vary."""
    there = ~(np.isnan(left) | np.isnan(right))
    left, right = left[there], right[there]
    if len(left) < FEWEST or np.ptp(left) == 0 or np.ptp(right) == 0:
        return math.nan
    if ranked:
        left, right = rankdata(left), rankdata(right)
    left, right = left - left.mean(), right - right.mean()
    return float(np.clip(left @ right / math.sqrt(float(left @ left) * float(right @ right)), -1.0, 1.0))


def _ratio(over: float, under: float) -> float:
    return float(over / under) if under else math.nan


def _mean_of(table: Numbers) -> Numbers:
    """[N] means over the askings [R, N] that have a value."""
    there = ~np.isnan(table)
    count = there.sum(axis=0)
    return np.where(count > 0, np.where(there, table, 0.0).sum(axis=0) / np.maximum(count, 1), math.nan)


def _column_mean(column: Numbers) -> Statistic:
    return lambda at: _mean(column[at])


def _mean(values: Numbers) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else math.nan


def _drawn(clusters: Sequence[Places], resamples: int) -> list[Places]:
    """Answers of resampled prompts."""
    generator = np.random.default_rng(0)  # the same scores give the same words
    chosen = generator.integers(0, len(clusters), size=(resamples, len(clusters)))
    return [np.concatenate([clusters[each] for each in row]) for row in chosen]


def _found(of: Statistic, everywhere: Places, drawn: Sequence[Places], count: int) -> Found:
    value = of(everywhere)
    return Found(value, *_interval(np.array([of(each) for each in drawn]), value), count)


def _interval(drawn: Numbers, value: float) -> tuple[float, float]:
    """The middle 95 % of the resamples; none where most of them do not say."""
    there = drawn[~np.isnan(drawn)]
    if math.isnan(value) or len(there) < len(drawn) / 2:
        return math.nan, math.nan
    low, high = np.quantile(there, (0.025, 0.975))
    return float(low), float(high)


def _mean_over_prompts(values: Sequence[float], resamples: int) -> Found:
    if not values:
        return Found(math.nan, math.nan, math.nan, 0)
    table, generator = np.array(values), np.random.default_rng(0)
    drawn = table[generator.integers(0, len(table), size=(resamples, len(table)))].mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Found(float(table.mean()), float(low), float(high), len(values))
