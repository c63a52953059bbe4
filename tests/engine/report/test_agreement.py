"""Agreement of a judge with people and with itself, against SciPy and against sums in NumPy."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from wavalign.engine.report.agreement import Judged, agreement, within_prompts

NAN = math.nan


def judged(repeats: int = 3, prompts: int = 12, answers: int = 5, seed: int = 0) -> Judged:
    """Ties, holes, several prompts; a judge of 0 to 10 and people of 1 to 5."""
    draws = np.random.default_rng(seed)
    count = prompts * answers
    people = np.round(draws.uniform(1, 5, count) * 2) / 2
    judge = np.clip(np.round(2.2 * people - 1 + draws.standard_normal((repeats, count)) * 1.5), 0, 10)
    judge[0, 3] = judge[1, 7] = judge[2, 7] = NAN
    places = np.stack([np.linspace(0, 1, count) if r % 2 == 0 else np.linspace(1, 0, count) for r in range(repeats)])
    words = draws.integers(3, 60, count).astype(np.float64)
    names = [f"p{index // answers}" for index in range(count)]
    return Judged(judge, people, names, places, {"words": words}, (0.0, 10.0), (1.0, 5.0))


def present(row: np.ndarray, people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    there = ~np.isnan(row)
    return row[there], people[there]


def test_correlations_are_means_over_askings_of_those_of_scipy() -> None:
    data = judged()
    found = agreement(data, resamples=50)
    for name, function in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        expected = np.mean([function(*present(row, data.people)).statistic for row in data.judge])
        assert found[name].value == pytest.approx(expected, abs=1e-12)
        assert found[name].low < found[name].value < found[name].high
    assert found["pearson"].count == 60


def test_within_prompts_is_the_mean_of_those_that_can_be_ranked() -> None:
    data = judged()
    people = data.people.copy()
    people[:5] = 3.0
    judge = data.judge.copy()
    judge[:, 5:10] = 4.0
    data = replace(data, people=people, judge=judge, prompts=[*data.prompts[:-4], "a", "a", "b", "b"])
    expected = []
    for prompt in dict.fromkeys(data.prompts[10:-4]):
        at = [i for i, each in enumerate(data.prompts) if each == prompt]
        if len(at) >= 3:
            rows = [stats.spearmanr(*present(row[at], people[at])).statistic for row in judge]
            expected.append(np.nanmean(rows))
    values, left = within_prompts(data)
    np.testing.assert_allclose(values, expected, atol=1e-12)
    assert left == {
        "people gave all answers the same": 1,
        "the judge gave all answers the same": 1,
        "fewer than 3 answers": 3,
    }
    found = agreement(data, resamples=50)["spearman_within"]
    assert found.value == pytest.approx(np.mean(expected)) and found.count == len(expected)


def test_differences_are_on_the_scale_of_people() -> None:
    data = judged()
    off = (1 + data.judge * 4 / 10) - data.people
    found = agreement(data, resamples=50)
    each = {"mae": np.abs(off), "bias": off, "within_one": (np.abs(off) <= 1 + 1e-9) + np.where(np.isnan(off), NAN, 0)}
    for name, table in each.items():
        assert found[name].value == pytest.approx(np.nanmean(np.nanmean(table, axis=0)), abs=1e-12)
    unbounded = agreement(replace(data, span=None), resamples=50)
    assert math.isnan(unbounded["mae"].value) and unbounded["mae"].count == 0, "without a common scale, no number"
    assert unbounded["pearson"].value == found["pearson"].value
    edge = replace(data, judge=np.full_like(data.judge, 5.0), people=np.full_like(data.people, 2.0))
    assert agreement(edge, resamples=50)["within_one"].value == 1.0, "1 + 5 * 4 / 10 - 2 is 1, which is within one"


def test_asked_again() -> None:
    data = judged()
    found, whole = agreement(data, resamples=50), ~np.isnan(data.judge).any(axis=0)
    table = data.judge
    again = (~np.isnan(table)).sum(axis=0) >= 2
    variances = np.nanvar(table[:, again], axis=0, ddof=1)
    assert found["self_sd"].value == pytest.approx(np.sqrt(variances).mean(), abs=1e-12)
    free = (~np.isnan(table[:, again])).sum(axis=0) - 1
    assert found["noise"].value == pytest.approx((variances * free).sum() / free.sum(), abs=1e-12)
    assert found["noise"].count == 59, "one answer has a single value"
    same = [np.mean([a == b, a == c, b == c]) for a, b, c in table[:, whole].T] + [float(table[1, 3] == table[2, 3])]
    assert found["self_agreement"].value == pytest.approx(np.mean(same), abs=1e-12)


def test_icc_is_that_of_the_analysis_of_variance() -> None:
    """Shrout and Fleiss (1979), table 2: six targets and four judges, whose ICC(1,1) is 0.17."""
    table = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float)
    names = [f"p{i}" for i in range(6)]
    data = Judged(table.T, np.arange(6.0), names, np.zeros((4, 6)), {}, (0.0, 10.0), (0.0, 10.0))
    found = agreement(data, resamples=50)["self_icc"].value
    assert found == pytest.approx(0.1657, abs=5e-5)
    between = 4 * table.mean(axis=1).var(ddof=1)
    within = table.var(axis=1, ddof=1).mean()
    assert found == pytest.approx((between - within) / (between + 3 * within), abs=1e-12)


def test_order_is_the_slope_within_answers() -> None:
    data = judged()
    drifting = replace(data, judge=data.judge + 0.7 * data.places)
    before, after = agreement(data, resamples=50)["order"].value, agreement(drifting, resamples=50)["order"].value
    assert after - before == pytest.approx(0.7, abs=1e-12)
    rows, columns = np.nonzero(~np.isnan(data.judge) & ((~np.isnan(data.judge)).sum(axis=0) >= 2))
    design = np.zeros((len(rows), 1 + data.judge.shape[1]))  # least squares with a level for each answer
    design[:, 0] = data.places[rows, columns]
    design[np.arange(len(rows)), 1 + columns] = 1
    expected = np.linalg.lstsq(design, data.judge[rows, columns], rcond=None)[0][0]
    assert before == pytest.approx(expected, abs=1e-9)


def test_length_is_looked_at_where_people_gave_the_same() -> None:
    data = judged()
    mean = np.nanmean(1 + data.judge * 4 / 10, axis=0)
    words = data.lengths["words"]
    table = np.corrcoef([mean, words, data.people])
    (jl, jp, lp) = table[0, 1], table[0, 2], table[1, 2]
    expected = (jl - jp * lp) / math.sqrt((1 - jp**2) * (1 - lp**2))
    found = agreement(data, resamples=50)
    assert found["length_words"].value == pytest.approx(expected, abs=1e-12)
    design = np.stack([words, data.people, np.ones_like(words)], axis=1)
    slope = np.linalg.lstsq(design, mean, rcond=None)[0][0]
    assert found["per_ten_words"].value == pytest.approx(10 * slope, abs=1e-12)
    holes = np.where(np.arange(60) < 10, NAN, words)
    assert agreement(replace(data, lengths={"words": holes}), resamples=50)["length_words"].count == 50


def test_what_the_data_does_not_say_is_no_number() -> None:
    once = replace(judged(), judge=judged().judge[:1], places=judged().places[:1])
    found = agreement(once, resamples=50)
    assert all(math.isnan(found[name].value) for name in ("self_sd", "self_agreement", "self_icc", "noise", "order"))
    level = replace(judged(), judge=np.full((3, 60), 4.0))
    found = agreement(level, resamples=50)
    assert all(math.isnan(found[name].value) for name in ("pearson", "spearman", "spearman_within", "length_words"))
    assert found["noise"].value == 0.0 and found["bias"].count == 60


def test_intervals_are_over_prompts() -> None:
    """Equal answers to a prompt say no more than one: the interval is that of the prompts, whatever their answers."""
    draws = np.random.default_rng(3)
    people, off = draws.uniform(1, 5, 40), draws.standard_normal(40)

    def table(times: int) -> Judged:
        judge = np.repeat(people + off, times)[None]
        names = [f"p{i}" for i in np.repeat(np.arange(40), times)]
        return Judged(judge, np.repeat(people, times), names, np.zeros_like(judge), {}, (0.0, 10.0), (0.0, 10.0))

    once, often = (agreement(table(times), resamples=500)["bias"] for times in (1, 20))
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    half = (once.high - once.low) / 2
    assert half == pytest.approx(1.96 * off.std() / math.sqrt(40), rel=0.1)


@pytest.mark.slow
def test_intervals_hold_what_they_promise() -> None:
    """Of 200 draws of the same judge, about 95 % of the intervals hold the true bias and correlation."""
    held = np.zeros(2)
    for seed in range(200):
        draws = np.random.default_rng(seed)
        people = draws.standard_normal(300)
        judge = (0.8 * people + 0.6 * draws.standard_normal(300) + 0.3)[None]
        names = [f"p{i // 4}" for i in range(300)]
        data = Judged(judge, people, names, np.zeros_like(judge), {}, (-5.0, 5.0), (-5.0, 5.0))
        found = agreement(data, resamples=300, whole=False)
        held += [found["bias"].low <= 0.3 <= found["bias"].high, found["pearson"].low <= 0.8 <= found["pearson"].high]
    assert (held / 200 > 0.89).all() and (held / 200 < 0.99).all()
