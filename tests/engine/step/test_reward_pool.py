"""Threads that score: rewards with threads of their own, and rewards that cannot go on."""

import threading
from collections.abc import Iterator
from typing import ClassVar

import pytest

from tests.engine.step.test_rewards import groups
from wavalign.engine.step.reward_pool import NOT_ASKED, LiveReward, RewardPool, stopped
from wavalign.errors import RewardStopped
from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.schema.base import Params
from wavalign.schema.reward import RewardSection

ALL = groups(["1", "2", "3"], ["4", "5", "6"])


class Waiting(Reward):
    """Gives 1 once as many ask at a time as it waits for; stops at the answer that it is told."""

    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __init__(self, *, concurrency: int = 0, meets: int = 1, stops_at: str = "") -> None:
        super().__init__(Params())
        self.concurrency, self.stops_at = concurrency, stops_at
        self.barrier = threading.Barrier(meets)
        self.asked: list[str] = []

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        self.asked.append(rollout.answer.text)
        if rollout.answer.text == self.stops_at:
            raise RewardStopped("402 payment required")
        self.barrier.wait(timeout=20)
        return Scored(1.0)


@pytest.fixture
def pool(request: pytest.FixtureRequest) -> Iterator[RewardPool]:
    """Of the rewards that a test names, with one shared thread."""
    section = RewardSection.model_validate({"type": "waiting"})
    made = RewardPool([LiveReward(name, reward, section) for name, reward in request.param.items()], 1)
    yield made
    made.close()


@pytest.mark.parametrize("pool", [{"judge": Waiting(concurrency=6, meets=6)}], indirect=True)
def test_threads_of_its_own(pool: RewardPool) -> None:
    """Six calls meet at a barrier, which one shared thread could never let through."""
    assert [call.result for call in pool.score("judge", ALL)] == [Scored(1.0)] * 6


@pytest.mark.parametrize("pool", [{"paid": Waiting(stops_at="2"), "free": Waiting()}], indirect=True)
def test_one_that_cannot_go_on(pool: RewardPool) -> None:
    """It is asked nothing more, and the shared thread goes on with what others wait for."""
    calls = pool.score("paid", ALL, together=True)
    first, _, *later = (call.result for call in calls)
    assert first == Scored(1.0) and later == [NOT_ASKED] * 4
    end = stopped({"paid": calls})
    assert end is not None and end.message == "402 payment required"
    assert pool.rewards[0].reward.asked == ["1", "2"]  # type: ignore[attr-defined]
    assert [call.result for call in pool.score("free", ALL)] == [Scored(1.0)] * 6


@pytest.mark.parametrize("pool", [{"paid": Waiting(stops_at="1")}], indirect=True)
def test_where_nobody_agrees_later_it_raises(pool: RewardPool) -> None:
    with pytest.raises(RewardStopped, match="402 payment required"):
        pool.score("paid", ALL)
