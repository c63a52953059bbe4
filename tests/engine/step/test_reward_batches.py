"""Rewards that score several answers in one call: who is asked with whom, and what fails together."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import pytest
import torch

from tests.engine.step.test_rewards import groups, scored
from wavalign.engine.step.reward_pool import Line, LiveReward, RewardPool
from wavalign.errors import PluginError
from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.schema.base import Params
from wavalign.schema.reward import RewardSection


class Together(Reward):
    """Gives the number that an answer is, three at a time."""

    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    range: ClassVar[tuple[float, float]] = (0.0, 9.0)

    def __init__(self, params: Params, size: int = 3) -> None:
        super().__init__(params)
        self.batch_size = size
        self.asked: list[list[str]] = []

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        raise AssertionError("answers are scored together")

    def score_batch(self, rollouts: Sequence[Rollout], dialogues: Sequence[Dialogue]) -> Sequence[Scored]:
        self.asked.append([f"{d.id}:{r.answer.text}" for r, d in zip(rollouts, dialogues, strict=True)])
        if any(rollout.answer.text == "raise" for rollout in rollouts):
            raise RuntimeError("out of memory")
        if any(rollout.answer.text == "hang" for rollout in rollouts):
            time.sleep(2)
        if any(rollout.answer.text == "few" for rollout in rollouts):
            return [Scored(1.0)]
        if any(rollout.answer.text == "change" for rollout in rollouts):
            torch.set_default_dtype(torch.float64)
        return [Scored(float(rollout.answer.text)) for rollout in rollouts]


def live(reward: Reward, **section: Any) -> LiveReward:
    return LiveReward("r", reward, RewardSection.model_validate({"type": "together", **section}))


@pytest.fixture
def pools() -> Iterator[list[RewardPool]]:
    """Pools to be closed, whatever happens."""
    made: list[RewardPool] = []
    yield made
    for pool in made:
        pool.close()


def test_answers_are_asked_about_in_their_order(pools: list[RewardPool]) -> None:
    reward = Together(Params())
    found = scored([live(reward)], groups(["1", "2"], ["3", "4"], ["5", "6"], ["7", "8"]), pools, workers=1)
    assert found.total.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert reward.asked == [["d0:1", "d0:2", "d1:3"], ["d1:4", "d2:5", "d2:6"], ["d3:7", "d3:8"]]


def test_what_is_asked_together_fails_together_and_nothing_else(pools: list[RewardPool]) -> None:
    found = scored([live(Together(Params(), 2))], groups(["1", "raise"], ["3", "4"]), pools)
    assert found.failed == {"r": 2}
    assert found.parts["r"].isnan().tolist() == [[True, True], [False, False]]
    assert {cell.reason for cell in found.words["r"][0]} == {"RuntimeError: out of memory"}


def test_results_must_be_as_many_as_answers(pools: list[RewardPool]) -> None:
    found = scored([live(Together(Params(), 2))], groups(["1", "few"]), pools)
    assert found.failed == {"r": 2}
    assert "score_batch gave 1 results for 2 answers" in found.words["r"][0][0].reason


def test_a_call_that_hangs_is_given_up_once(pools: list[RewardPool]) -> None:
    """One thread takes the place of the one that hangs, and goes on with what waits."""
    made = live(Together(Params(), 2), timeout=0.2)
    pool = RewardPool([made], 1)
    pools.append(pool)
    started: list[int] = []
    begin = pool._start_thread

    def counted(line: Line) -> None:
        started.append(1)
        begin(line)

    pool._start_thread = counted  # type: ignore[method-assign]
    calls = pool.submit(made, groups(["hang", "1"], ["3", "4"]))
    pool.wait(calls)
    values = [call.result.value for call in calls if call.result is not None]
    assert values == [None, None, 3.0, 4.0]
    assert len(started) == 1


def test_a_batch_that_changes_settings_ends_the_run(pools: list[RewardPool]) -> None:
    made = live(Together(Params(), 2))
    pools.append(RewardPool([made], 1))
    with pytest.raises(PluginError, match="score_batch changed torch's default dtype"):
        pools[0].wait(pools[0].submit(made, groups(["change", "1"])))
    assert torch.get_default_dtype() == torch.float32
