"""Rewards that fail: what counts as failure, what it does, and that nothing is made up."""

import math
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, final

import pytest
import torch

from wavalign.engine.step.reward_budget import check_budget
from wavalign.engine.step.reward_pool import LiveReward, RewardPool
from wavalign.engine.step.rewards import Scores, collect_scores, combine, judge_truncated, scale
from wavalign.engine.step.values import Pending
from wavalign.errors import PluginError, RewardBudgetError
from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Answer, Dialogue, Rollout, RolloutGroup, Scored, TokenSequence
from wavalign.schema.base import Params
from wavalign.schema.reward import RewardSection

NAN = math.nan
EMPTY = TokenSequence(torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, 0, dtype=torch.int8))
OnFailure = Literal["drop_sample", "drop_group", "renormalize", "abort"]


@final
class Scripted(Reward):
    """Gives what the answer's text says."""

    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    range: ClassVar[tuple[float, float]] = (0.0, 2.0)

    def __init__(self, params: Params, gives: dict[str, Any] | None = None) -> None:
        super().__init__(params)
        self.gives = gives or {}
        self.release = threading.Event()
        self.closed = 0

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        what = self.gives.get(rollout.answer.text, rollout.answer.text)
        if what == "hang":
            self.release.wait(20)
            return Scored(1.0)
        if isinstance(what, Exception):
            raise what
        return what if not isinstance(what, str) else Scored(float(what))

    def close(self) -> None:
        self.closed += 1


def live(name: str = "r", *, reward: Reward | None = None, **section: Any) -> LiveReward:
    made = RewardSection.model_validate({"type": "scripted", **section})
    return LiveReward(name, reward if reward is not None else Scripted(Params()), made)


def groups(*texts: Sequence[str]) -> list[RolloutGroup]:
    """One group per sequence of answers."""
    return [
        RolloutGroup(
            Dialogue(f"d{index}", ()),
            EMPTY,
            tuple(Rollout(EMPTY, torch.zeros(1, 0), Answer(text, (), True)) for text in row),
        )
        for index, row in enumerate(texts)
    ]


@pytest.fixture
def pools() -> Iterator[list[RewardPool]]:
    """Pools to be closed, whatever happens."""
    made: list[RewardPool] = []
    yield made
    for pool in made:
        pool.close()


def test_only_the_ratio_of_weights_counts() -> None:
    parts = {"a": torch.tensor([[1.0, 2.0]], dtype=torch.float64), "b": torch.tensor([[3.0, NAN]], dtype=torch.float64)}
    for weight in (1e-13, 0.1, 1.0, 1e6):
        rewards = [
            live("a", weight=weight, on_failure="renormalize"),
            live("b", weight=weight, on_failure="renormalize"),
        ]
        assert combine(rewards, parts)[0].tolist() == pytest.approx([2.0, 2.0], rel=1e-14)


@pytest.mark.parametrize("how", ["gives", "raises"])
def test_a_reward_that_changes_settings_ends_the_run(pools: list[RewardPool], how: str) -> None:
    class Changing(Reward):
        """Works in float64."""

        needs = frozenset({"text"})
        range = (0.0, 1.0)

        def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
            torch.set_default_dtype(torch.float64)
            if how == "raises":
                raise RuntimeError("no")
            return Scored(1.0)

    each = live(reward=Changing(Params()))
    pools.append(RewardPool([each], 1))
    with pytest.raises(
        PluginError, match=r"reward 'Changing': score changed torch's default dtype from torch\.float32"
    ):
        pools[0].wait(pools[0].submit(each, groups(["a"])))
    assert torch.get_default_dtype() == torch.float32


def scored(
    made: Sequence[LiveReward], answers: Sequence[RolloutGroup], pools: list[RewardPool], workers: int = 2
) -> Scores:
    pool = RewardPool(made, workers)
    pools.append(pool)
    calls = {each.name: pool.submit(each, answers) for each in made}
    pool.wait([call for part in calls.values() for call in part])
    return collect_scores(made, calls, (len(answers), len(answers[0].rollouts)))


def test_who_waits_is_told_for_which_reward_and_how_far_it_is(pools: list[RewardPool]) -> None:
    slow = Scripted(Params())
    made = [live("quick"), live("judge", reward=slow)]
    pool = RewardPool(made, 2)
    pools.append(pool)
    answers = groups(["1", "hang"])
    told: list[tuple[str, int, int]] = []

    def waiting() -> None:
        told.append(pool.progress("judge"))
        if told[-1][1] == 1:
            slow.release.set()

    calls = Pending("reward.judge", lambda: {"calls": pool.score("judge", answers)}, torch.device("cpu"))
    calls.value("calls", waiting)
    assert ("reward judge", 1, 2) in told
    assert {what for what, _, _ in told} == {"reward judge"}


FAILURES: dict[str, tuple[Any, str]] = {
    "raises": (RuntimeError("the judge is down"), "RuntimeError: the judge is down"),
    "none": (Scored(None, "it was silent"), "it was silent"),
    "nan": (Scored(NAN), "gave nan"),
    "infinite": (Scored(math.inf), "gave inf"),
    "too high": (Scored(2.5), "gave 2.5, outside its range 0 to 2"),
    "too low": (Scored(-0.1), "gave -0.1, outside its range 0 to 2"),
    "no Scored": (0.5, "gave float instead of Scored"),
    "nothing": (None, "gave NoneType instead of Scored"),
    "no number": (Scored("1.0"), "gave str instead of a number"),  # type: ignore[arg-type]  # that is the point
    "a tensor": (Scored(torch.tensor(1.0)), "gave Tensor instead of a number"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_a_missing_value_with_its_reason(name: str, pools: list[RewardPool]) -> None:
    gives, reason = FAILURES[name]
    reward = Scripted(Params(), {"bad": gives})
    scores = scored([live(reward=reward)], groups(["1", "bad"], ["0", "2"]), pools)
    assert scores.words["r"][0][1] == Scored(None, reason)
    torch.testing.assert_close(scores.total, torch.tensor([[1, NAN], [0, 2]], dtype=torch.float64), equal_nan=True)
    assert scores.failed == {"r": 1}


def test_a_call_that_hangs_is_given_up_and_its_thread_replaced(pools: list[RewardPool]) -> None:
    """With as many hanging calls as threads the rest is scored all the same."""
    reward = Scripted(Params())
    before = set(threading.enumerate())
    began = time.monotonic()
    scores = scored([live(reward=reward, timeout=0.3)], groups(["hang", "hang", "1", "2"]), pools, workers=2)
    assert 0.3 <= time.monotonic() - began < 5
    assert scores.words["r"][0][0] == Scored(None, "no answer within 0.3 s")
    assert scores.total.tolist()[0][2:] == [1, 2]
    assert scores.failed == {"r": 2}
    # What comes back late is dropped, and the threads that brought it end.
    reward.release.set()
    end = time.monotonic() + 5
    while len(set(threading.enumerate()) - before) > 2:
        assert time.monotonic() < end, "replaced threads live on"
        time.sleep(0.01)
    assert scores.words["r"][0][0].value is None
    again = pools[0].submit(live(reward=reward), groups(["2", "0"]))
    pools[0].wait(again)
    assert [call.result for call in again] == [Scored(2.0), Scored(0.0)]


def test_waiting_in_the_queue_is_no_delay(pools: list[RewardPool]) -> None:
    """The time counts from when a thread takes the call, not from when it was queued."""

    @final
    class Slow(Reward):
        needs: ClassVar[frozenset[str]] = frozenset({"text"})
        range: ClassVar[tuple[float, float]] = (0.0, 1.0)

        def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
            time.sleep(0.1)
            return Scored(1.0)

    scores = scored([live(reward=Slow(Params()), timeout=0.35)], groups(["x"] * 8), pools, workers=1)
    assert scores.failed == {"r": 0}


def test_closing_frees_the_rewards_once() -> None:
    reward = Scripted(Params())
    pool = RewardPool([live(reward=reward)], 2)
    pool.close()
    assert reward.closed == 1


def test_scale_maps_the_range() -> None:
    values = torch.tensor([[0.0, 0.5, 2.0, NAN]], dtype=torch.float64)
    assert scale(values, live()).tolist()[0][:3] == [0, 0.5, 2]
    mapped = scale(values, live(scale=[1, 5])).tolist()[0]
    assert mapped[:3] == [1, 2, 5]
    assert math.isnan(mapped[3])


A = torch.tensor([[1.0, 3.0, NAN], [2.0, 4.0, 5.0]], dtype=torch.float64)
B = torch.tensor([[5.0, 1.0, 2.0], [2.0, 2.0, NAN]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # Weights 3 and 1: (3 a + b) / 4, and b alone where a may be left out.
        ("drop_sample", "drop_sample", [[2.0, 2.5, NAN], [2.0, 3.5, NAN]]),
        ("renormalize", "drop_sample", [[2.0, 2.5, 2.0], [2.0, 3.5, NAN]]),
        ("renormalize", "renormalize", [[2.0, 2.5, 2.0], [2.0, 3.5, 5.0]]),
        ("drop_group", "renormalize", [[NAN, NAN, NAN], [2.0, 3.5, 5.0]]),
        ("drop_sample", "drop_group", [[2.0, 2.5, NAN], [NAN, NAN, NAN]]),
    ],
)
def test_what_a_missing_part_does(first: OnFailure, second: OnFailure, expected: list[list[float]]) -> None:
    rewards = [live("a", weight=3, on_failure=first), live("b", weight=1, on_failure=second)]
    total = combine(rewards, {"a": A, "b": B})
    torch.testing.assert_close(total, torch.tensor(expected, dtype=torch.float64), equal_nan=True)


def test_only_the_ratio_of_weights_matters() -> None:
    totals = [
        combine([live("a", weight=3 * k), live("b", weight=1 * k)], {"a": A, "b": B}).nan_to_num() for k in (1, 10)
    ]
    torch.testing.assert_close(*totals)


def test_where_all_parts_are_missing_there_is_no_reward() -> None:
    total = combine([live("a", on_failure="renormalize")], {"a": torch.full((1, 2), NAN, dtype=torch.float64)})
    assert total.isnan().all()


def failing(count: int, of: int, *, on_failure: OnFailure = "drop_sample") -> tuple[Scores, list[LiveReward]]:
    values = torch.tensor([[NAN] * count + [1.0] * (of - count)], dtype=torch.float64)
    words = {"r": (tuple(Scored(None, "down") if math.isnan(v) else Scored(v) for v in values[0].tolist()),)}
    return Scores(values, {"r": values}, words, {"r": count}), [live(on_failure=on_failure)]


def test_the_budget() -> None:
    scores, rewards = failing(2, 4)
    check_budget(scores, rewards, {"r": 2}, calls=4, budget=0.5)
    with pytest.raises(RewardBudgetError, match=r"2 of 4 calls of reward `r` failed \(first: down\)") as caught:
        check_budget(scores, rewards, {"r": 2}, calls=4, budget=0.49)
    assert "reward_failure_budget is 0.49" in caught.value.hint
    assert caught.value.exit_code == 6


def test_the_budget_is_that_of_all_processes() -> None:
    """All calls of this process failed, a quarter of everybody's; and the other way round."""
    scores, rewards = failing(2, 2)
    check_budget(scores, rewards, {"r": 2}, calls=8, budget=0.5)
    scores, rewards = failing(0, 2)
    with pytest.raises(RewardBudgetError, match=r"6 of 8 calls .* on another process"):
        check_budget(scores, rewards, {"r": 6}, calls=8, budget=0.5)


def test_abort_allows_none() -> None:
    scores, rewards = failing(1, 100, on_failure="abort")
    with pytest.raises(RewardBudgetError, match="1 of 100") as caught:
        check_budget(scores, rewards, {"r": 1}, calls=100, budget=1.0)
    assert "abort" in caught.value.hint


# --- answers with nothing to score ------------------------------------------------------------------------------------


SILENT = Scored.absent("the answer has no sound")


def test_an_answer_with_nothing_to_score_gets_the_lowest_value_and_is_no_failure(pools: list[RewardPool]) -> None:
    reward = Scripted(Params(), {"silent": SILENT, "down": Scored(None, "the judge is down")})
    made = [live("text", weight=1, scale=[1, 5]), live("sound", reward=reward, weight=1, scale=[1, 5])]
    pool = RewardPool(made, 2)
    pools.append(pool)
    calls = {
        "text": pool.submit(made[0], groups(["2", "2", "2"])),
        "sound": pool.submit(made[1], groups(["2", "silent", "down"])),
    }
    pool.wait([call for part in calls.values() for call in part])
    scores = collect_scores(made, calls, (1, 3))
    torch.testing.assert_close(scores.total, torch.tensor([[5, 3, NAN]], dtype=torch.float64), equal_nan=True)
    assert scores.failed == {"text": 0, "sound": 1}
    assert scores.absent["sound"].tolist() == [[False, True, False]]
    assert scores.words["sound"][0][1] == SILENT  # the reason is kept beside the value
    check_budget(scores, made, {"text": 0, "sound": 1}, calls=3, budget=0.4)


@pytest.mark.parametrize("on_failure", ["drop_sample", "drop_group", "renormalize", "abort"])
def test_whatever_happens_to_failures_silence_is_never_worth_more_than_bad_sound(
    on_failure: OnFailure, pools: list[RewardPool]
) -> None:
    """Written right, with bad sound and with none."""
    reward = Scripted(Params(), {"none": SILENT})
    made = [live("text", weight=0.6), live("sound", reward=reward, weight=0.4, on_failure=on_failure)]
    pool = RewardPool(made, 2)
    pools.append(pool)
    calls = {"text": pool.submit(made[0], groups(["2", "2"])), "sound": pool.submit(made[1], groups(["0.1", "none"]))}
    pool.wait([call for part in calls.values() for call in part])
    scores = collect_scores(made, calls, (1, 2))
    bad, none = scores.total[0].tolist()
    assert none < bad
    check_budget(scores, made, scores.failed, calls=2, budget=0.0)


@pytest.mark.parametrize(("rule", "expected"), [("drop_sample", [[1.0, NAN]]), ("drop_group", [[NAN, NAN]])])
def test_a_recipe_may_leave_such_answers_out(rule: str, expected: list[list[float]], pools: list[RewardPool]) -> None:
    made = [live(reward=Scripted(Params(), {"none": SILENT}), on_absent=rule, on_failure="abort")]
    scores = scored(made, groups(["1", "none"]), pools)
    torch.testing.assert_close(scores.total, torch.tensor(expected, dtype=torch.float64), equal_nan=True)
    check_budget(scores, made, scores.failed, calls=2, budget=0.0)


def test_without_a_lowest_value_the_recipe_must_say_what_absence_is_worth(pools: list[RewardPool]) -> None:
    @final
    class Unbounded(Reward):
        needs: ClassVar[frozenset[str]] = frozenset({"text"})
        range: ClassVar[tuple[float, float]] = (-math.inf, 0.0)

        def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
            return SILENT

    with pytest.raises(PluginError, match=r"`r` has no lowest value") as caught:
        scored([live(reward=Unbounded(Params()))], groups(["x"]), pools)
    assert "on_absent: drop_sample" in caught.value.hint
    assert scored([live(reward=Unbounded(Params()), on_absent="drop_sample")], groups(["x"]), pools).total.isnan().all()


# --- answers that were cut off ----------------------------------------------------------------------------------------


def cut_off(*finished: bool) -> list[RolloutGroup]:
    rollouts = tuple(Rollout(EMPTY, torch.zeros(1, 0), Answer("1", (), each, text_finished=each)) for each in finished)
    return [RolloutGroup(Dialogue("d", ()), EMPTY, rollouts)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("keep", [1.0, 2.0, 2.0, NAN]), ("lowest", [0.75, 2.0, 0.75, NAN]), ("mask", [NAN, 2.0, NAN, NAN])],
)
def test_what_an_answer_is_worth_that_was_cut_off(rule: str, expected: list[float]) -> None:
    """Lowest: (3 x 1 + 1 x 0) / 4, of scales that begin at 1 and at 0."""
    rewards = [live("a", weight=3, scale=[1, 5]), live("b", weight=1)]
    total = torch.tensor([[1.0, 2.0, 2.0, NAN]], dtype=torch.float64)
    judged = judge_truncated(Scores(total, {}, {}), rewards, cut_off(False, True, False, False), rule)
    torch.testing.assert_close(judged.total, torch.tensor([expected], dtype=torch.float64), equal_nan=True)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("keep", [1.0, 2.0, 3.0, NAN]), ("lowest", [0.0, 2.0, 0.0, NAN]), ("mask", [NAN, 2.0, NAN, NAN])],
)
def test_what_single_rewards_of_an_answer_are_worth_that_was_cut_off(rule: str, expected: list[float]) -> None:
    """What advantages see of each reward agrees with the total; what is logged of it stays what the reward said."""
    total = torch.tensor([[1.0, 2.0, 2.0, NAN]], dtype=torch.float64)
    part = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    judged = judge_truncated(Scores(total, {"a": part}, {}), [live("a")], cut_off(False, True, False, False), rule)
    torch.testing.assert_close(judged.judged_parts["a"], torch.tensor([expected], dtype=torch.float64), equal_nan=True)
    assert judged.parts["a"] is part


def test_a_reward_that_reads_text_minds_the_text_alone() -> None:
    """Whether sound is sampled beside it, for a KL say, changes no reward; one that listens minds the whole answer."""

    class Listening(Scripted):  # type: ignore[misc]  # final for all others
        needs: ClassVar[frozenset[str]] = frozenset({"text", "waveform"})

    answers = [Answer("1", (), True), Answer("1", (), False), Answer("1", (), False, text_finished=False)]
    rollouts = tuple(Rollout(EMPTY, torch.zeros(1, 0), each) for each in answers)
    total = Scores(torch.ones(1, 3, dtype=torch.float64), {}, {})

    def judged(*rewards: LiveReward) -> list[float]:
        group = RolloutGroup(Dialogue("d", ()), EMPTY, rollouts)
        values: list[float] = judge_truncated(total, rewards, [group], "lowest").total[0].tolist()
        return values

    assert judged(live("a")) == [1.0, 1.0, 0.0]
    assert judged(live("a"), live("b", reward=Listening(Params()))) == [1.0, 0.0, 0.0]


def test_where_nothing_was_cut_off_nothing_changes() -> None:
    scores = Scores(torch.ones(1, 2, dtype=torch.float64), {}, {})
    assert all(judge_truncated(scores, [live()], cut_off(True, True), rule) is scores for rule in ("lowest", "mask"))
