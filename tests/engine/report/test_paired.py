"""Two models on the same items: numbers by hand, and against scipy's own bootstrap."""

import numpy as np
import pytest
from scipy.stats import bootstrap, ttest_rel

from wavalign.engine.report.paired import PairedDifference, holm, paired, paired_p, paired_seeds, said_p, sentence


def shares(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[float], list[float]]:
    a = [1.0] * both + [1.0] * only_a + [0.0] * only_b + [0.0] * neither
    b = [1.0] * both + [0.0] * only_a + [1.0] * only_b + [0.0] * neither
    return a, b


def found(a: list[float], b: list[float]) -> PairedDifference:
    result = paired(a, b)
    assert result is not None
    return result


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (5, 0, 2 / 2**5),  # all five go one way: 2 * (1/2)^5
        (4, 1, 2 * (1 + 5) / 2**5),  # 2 * (C(5,0) + C(5,1)) / 2^5
        (1, 9, 2 * (1 + 10) / 2**10),
        (3, 3, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemars_exact_test_by_hand(only_a: int, only_b: int, p: float) -> None:
    result = found(*shares(20, only_a, only_b, 10))
    assert result.p == pytest.approx(p)
    assert (result.only_a, result.only_b, result.count) == (only_a, only_b, 30 + only_a + only_b)
    assert result.difference == pytest.approx((only_a - only_b) / (30 + only_a + only_b))


def test_pairs_see_what_two_intervals_do_not() -> None:
    """60 and 70 of 100 right: the Wilson intervals overlap by far; on the same items 10 won and none lost is plain."""
    better, worse = shares(60, 10, 0, 30)
    assert found(better, worse).p == pytest.approx(2 / 2**10)
    assert found(better, worse).shown()
    # The same shares from unrelated answers: 40 won, 30 lost.
    assert not found(*shares(30, 40, 30, 0)).shown()


def test_the_interval_is_that_of_scipys_bootstrap() -> None:
    a, b = shares(60, 25, 10, 30)
    differences = np.subtract(a, b)
    theirs = bootstrap((differences,), np.mean, method="percentile", n_resamples=9_999, rng=np.random.default_rng(1))
    ours = found(a, b)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.012)
    # Standard error by hand: sqrt((35 - 15^2 / 125) / 125) / sqrt(125) = 0.0461
    assert (ours.high - ours.low) / (2 * 1.96) == pytest.approx(0.0461, abs=0.002)


def test_means_are_tested_by_flipping_signs() -> None:
    # Differences .1 .2 .3 .4 .5: of the 32 flips two give a mean as far from 0.
    a, b = [1.1, 2.2, 3.3, 4.4, 5.5], [1.0, 2.0, 3.0, 4.0, 5.0]
    result = found(a, b)
    assert result.p == pytest.approx(2 / 32) and result.only_a is None
    assert result.difference == pytest.approx(0.3)
    # -.1 .2 .3 .4 .5: sum 1.3 or more, or -1.3 or less: 4 of 32.
    assert found([0.9, 2.2, 3.3, 4.4, 5.5], b).p == pytest.approx(4 / 32)


def test_many_items_are_flipped_at_random() -> None:
    """Beside the t test, which is exact enough for 300 normal differences."""
    generator = np.random.default_rng(3)
    a, b = generator.normal(0.12, 1, 300), generator.normal(0, 0.5, 300)
    ours = found(a.tolist(), b.tolist()).p
    assert 0.005 < ours < 0.5
    assert ours == pytest.approx(float(ttest_rel(a, b).pvalue), abs=0.015)


def test_very_many_items_take_no_longer_than_one_waits() -> None:
    result = found([1.0, 0.0, 1.0] * 10_000, [1.0, 0.0, 0.0] * 10_000)
    assert (result.count, result.p) == (30_000, 0.0)
    assert (result.high - result.low) / (2 * 1.96) == pytest.approx((2 / 9 / 30_000) ** 0.5, rel=0.1)


def test_items_that_one_of_the_two_lacks_are_left_out() -> None:
    result = paired([1.0, None, 1.0, 0.0], [0.0, 1.0, None, 0.0])
    assert result is not None
    assert (result.count, result.difference) == (2, 0.5)
    assert paired([None, 1.0], [1.0, None]) is None
    assert paired([], []) is None


def test_equal_answers_have_no_difference() -> None:
    result = found([0.3, 0.7, 2.0], [0.3, 0.7, 2.0])
    assert (result.difference, result.low, result.high, result.p) == (0.0, 0.0, 0.0, 1.0)


def test_one_item_shows_nothing() -> None:
    found = paired([0.5], [0.2])
    assert found is not None and (found.count, found.p) == (1, 1.0) and not found.shown()


def test_seeds_count_too() -> None:
    """Three seeds that agree show what three seeds that contradict one another do not, at the same mean."""
    won, lost = shares(60, 20, 0, 20), shares(50, 0, 20, 30)
    much = shares(40, 60, 0, 0)
    agreed = paired_seeds([won[0]] * 3, [won[1]] * 3)
    apart = paired_seeds([much[0], won[0], lost[0]], [much[1], won[1], lost[1]])
    assert agreed is not None and apart is not None
    assert [agreed.difference, apart.difference] == pytest.approx([0.2, 0.2])
    assert agreed.shown() and not apart.shown()
    assert (agreed.seeds, agreed.count, agreed.only_a, agreed.only_b) == (3, 300, 60, 0)
    assert apart.low < 0 < apart.high


def test_seeds_resample_items_together() -> None:
    """Three identical seeds are no more items: the interval is not narrower than that of one."""
    a, b = shares(60, 25, 10, 30)
    one, three = found(a, b), paired_seeds([a] * 3, [b] * 3)
    assert three is not None
    assert three.high - three.low == pytest.approx(one.high - one.low, rel=0.05)


def test_a_seeds_spread_by_hand() -> None:
    """Two seeds whose items all differ by 0 and by 1: resampled means are 0, .5, 1, widened to -.207, .5, 1.207."""
    a, b = [[0.0] * 50, [1.0] * 50], [[0.0] * 50, [0.0] * 50]
    result = paired_seeds(a, b)
    assert result is not None
    assert [result.low, result.high] == pytest.approx([0.5 - 2**0.5 / 2, 0.5 + 2**0.5 / 2])
    assert result.p > 0.4


def test_runs_that_cannot_be_paired_are_an_error() -> None:
    with pytest.raises(ValueError, match="2 runs of 3 items cannot be paired with 1 of 3"):
        paired_seeds([[1.0, 0.0, 1.0]] * 2, [[1.0, 0.0, 1.0]])
    with pytest.raises(ValueError, match=r"the same items; these have \[2, 3\]"):
        paired_seeds([[1.0, 0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0, 1.0]] * 2)


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .2, times 4 3 2 1: .04 .06 .06 .2; never below the one before.
    assert holm([0.03, 0.01, 0.2, 0.02]) == pytest.approx([0.06, 0.04, 0.2, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_what_a_comparison_says() -> None:
    plain = PairedDifference(0.1234, 0.05, 0.2, 0.003, 213, 1, 40, 14, "m")
    assert sentence(plain, "A", "B") == "A better than B by 0.123 [0.050, 0.200], p = 0.003"
    assert sentence(plain, "A", "B", lower_is_better=True) == "A worse than B by 0.123 [0.050, 0.200], p = 0.003"
    assert sentence(plain, "A", "B", p=0.06) == ("no difference shown between A and B: 0.123 [0.050, 0.200], p = 0.060")
    turned = PairedDifference(-0.1234, -0.2, -0.05, 0.0001, 213, 1, 14, 40, "m")
    assert sentence(turned, "A", "B") == "B better than A by 0.123 [0.050, 0.200], p < 0.001"
    assert sentence(turned, "A", "B", lower_is_better=True) == "B worse than A by 0.123 [0.050, 0.200], p < 0.001"
    none = PairedDifference(-0.01, -0.0001, 0.02, 1.0, 9, 1, 0, 0, "m")
    assert sentence(none, "A", "B", places=2) == "no difference shown between A and B: −0.01 [0.00, 0.02], p = 1.000"
    assert said_p(0.0123) == "= 0.012"


def test_p_alone_is_that_of_the_whole_comparison() -> None:
    draws = np.random.default_rng(0)
    shares_ = [[float(x) for x in draws.random(60) < share] for share in (0.4, 0.6)]
    means = [draws.standard_normal(40).tolist(), (draws.standard_normal(40) + 0.4).tolist()]
    for a, b in (shares_, means):
        whole: list[float | None] = [*a, None]
        other: list[float | None] = [*b, 1.0]
        result = paired(whole, other)
        assert result is not None and paired_p(whole, other) == result.p
    assert paired_p([None], [1.0]) is None
