"""Shares of a run's limits, and turns within them, by a clock of the test's own."""

import random

import pytest

from wavalign.errors import PreflightError
from wavalign.plugins.judging.limits import WINDOW, Pace, share


class Clock:
    """Time that passes when somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def paced(requests: int | None, tokens: int | None) -> tuple[Pace, Clock]:
    """Waiting moves the clock on."""
    clock = Clock()
    pace = Pace(requests, tokens, clock=clock)

    def wait(timeout: float) -> bool:
        clock.now += timeout
        return True

    pace._changed.wait = wait  # type: ignore[method-assign, assignment]
    return pace, clock


@pytest.mark.parametrize(("limit", "processes"), [(60, 1), (60, 7), (8, 8), (10, 3)])
def test_shares_add_up(limit: int, processes: int) -> None:
    shares = [share(limit, rank, processes, "x") for rank in range(processes)]
    assert sum(each or 0 for each in shares) == limit and max(shares, key=str) is not None
    assert max(each or 0 for each in shares) - min(each or 0 for each in shares) <= 1


def test_a_share_of_nothing() -> None:
    assert share(None, 0, 4, "x") is None
    with pytest.raises(PreflightError, match="x of 3 cannot be shared by 4 processes"):
        share(3, 3, 4, "x")


def test_no_window_has_more_requests_than_the_limit() -> None:
    pace, clock = paced(5, None)
    rng, times = random.Random(3), []
    for _ in range(60):
        clock.now += rng.choice((0, 0, 0.1, 7))
        assert pace.turn(1, clock.now + 1e6) is not None
        times.append(clock.now)
    most = max(sum(start <= each < start + WINDOW for each in times) for start in times)
    assert most == 5
    assert times[-1] - times[0] < 60 / 5 * WINDOW + 1, "and it waits no longer than it must"


def test_no_window_has_more_tokens_than_the_limit() -> None:
    pace, clock = paced(None, 1000)
    rng, sent = random.Random(4), []
    for _ in range(60):
        tokens = rng.choice((10, 200, 900))
        entry = pace.turn(tokens, clock.now + 1e6)
        assert entry is not None
        used = tokens // 2
        pace.settle(entry, used)
        sent.append((clock.now, used))
    assert max(sum(n for at, n in sent if start <= at < start + WINDOW) for start, _ in sent) <= 1000


def test_a_turn_that_comes_too_late_is_none() -> None:
    pace, clock = paced(1, None)
    assert pace.turn(1, clock.now + 1) is not None
    began = clock.now
    assert pace.turn(1, clock.now + 30) is None
    assert clock.now == began, "nobody waits for what does not come in time"
    assert pace.turn(1, clock.now + 61) is not None and clock.now >= began + WINDOW


def test_the_oldest_makes_room() -> None:
    pace, clock = paced(2, None)
    assert pace.turn(1, clock.now) is not None
    clock.now += 50
    assert pace.turn(1, clock.now) is not None
    assert pace.turn(1, clock.now + 15) is not None


def test_a_pause_holds_for_all() -> None:
    pace, clock = paced(None, None)
    pace.pause(12)
    began = clock.now
    assert pace.turn(1, clock.now + 100) is not None
    assert clock.now - began == pytest.approx(12)


def test_what_never_fits() -> None:
    assert Pace(None, 100).fits(100) and not Pace(None, 100).fits(101) and Pace(1, None).fits(10**9)
