"""Rewards on worker threads: a call that outlives its timeout is given up, and what a reward raises is a failed call.

A reward that asks many things at once and waits (`concurrency`) has threads of its own. One that cannot go on for the
whole run (RewardStopped) is asked nothing more.
"""

import math
import queue
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from wavalign.engine.contracts.origins import close_all, origin
from wavalign.engine.contracts.rollouts import lent_dialogue, lent_rollout, scored
from wavalign.engine.contracts.values import text
from wavalign.errors import PluginError, RewardStopped
from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, RolloutGroup, Scored
from wavalign.plugins.guard import left_changed, words
from wavalign.plugins.settings import Settings
from wavalign.schema.calibration import Correction
from wavalign.schema.reward import RewardSection

POLL_SECONDS = 0.05
NOT_ASKED = Scored(None, "not asked: the run ends")


@final
@dataclass(frozen=True, slots=True)
class LiveReward:
    """A constructed reward with its section."""

    name: str
    reward: Reward
    section: RewardSection
    correction: Correction | None = None
    """What its calibration makes of its values."""

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest value behind its correction."""
        scale = None if self.correction is None else self.correction.scale
        return self.reward.range if scale is None else scale

    @property
    def is_guard(self) -> bool:
        """Whether it takes no part in the total."""
        return self.section.guard is not None

    def __post_init__(self) -> None:
        """Refuse a range that the scale cannot map, where the reward's object has set it."""
        low, high = self.range
        if self.section.scale is not None and not math.isfinite(high - low):
            message = f"{origin(self.reward)}: its range {low:g} to {high:g} cannot be mapped to {self.section.scale}"
            raise PluginError(message, hint="remove the scale, or declare a finite range", placed=True)


@final
@dataclass(slots=True)
class Call:
    """One reward on one rollout."""

    live: LiveReward
    rollout: Rollout
    dialogue: Dialogue
    place: tuple[int, int]
    first: bool = True
    """Whether no call before it is asked together with it."""
    started: float | None = None
    result: Scored | None = None
    error: BaseException | None = None
    """What the reward raised."""
    fatal: PluginError | RewardStopped | None = None
    """Why the run cannot go on: the reward has changed what everybody's numbers hang on, or says so itself."""


@final
@dataclass(frozen=True, slots=True)
class Line:
    """Calls that wait for one of some threads."""

    threads: int
    waiting: queue.SimpleQueue[Sequence[Call]] = field(default_factory=queue.SimpleQueue)
    """Calls that are asked together; none ends a thread."""


def stopped(made: Mapping[str, Sequence[Call]]) -> RewardStopped | None:
    """Why a reward cannot go on for the whole run, by its calls; None where all can."""
    ends = (call.fatal for calls in made.values() for call in calls)
    return next((end for end in ends if isinstance(end, RewardStopped)), None)


@final
class RewardPool:
    """Threads that score. A call that outlives its timeout is given up and its thread replaced."""

    def __init__(self, rewards: Sequence[LiveReward], workers: int) -> None:
        """`workers` threads are shared by the rewards that have none of their own."""
        self.rewards = tuple(rewards)
        self._finished = threading.Condition()
        self._asked: dict[str, Sequence[Call]] = {}
        """By reward, its newest calls."""
        self._ended: set[str] = set()
        """Rewards that are asked nothing more."""
        self._lines: dict[str, Line] = {}
        """By reward, where its calls wait for a thread."""
        shared = Line(workers)
        for live in rewards:
            self._lines[live.name] = Line(live.reward.concurrency) if live.reward.concurrency else shared
        for line in self._all_lines():
            for _ in range(line.threads):
                self._start_thread(line)

    def submit(self, live: LiveReward, groups: Sequence[RolloutGroup]) -> list[Call]:
        """Queue one reward on every rollout; returns at once."""
        calls = [
            Call(live, rollout, group.dialogue, (p, g))
            for p, group in enumerate(groups)
            for g, rollout in enumerate(group.rollouts)
        ]
        size = live.reward.batch_size
        for start in range(0, len(calls), size):
            together = calls[start : start + size]
            for call in together[1:]:
                call.first = False
            self._lines[live.name].waiting.put(together)
        return calls

    def score(self, name: str, groups: Sequence[RolloutGroup], *, together: bool = False) -> Sequence[Call]:
        """One reward on every rollout, when every call has a result; raises what the run cannot go on from.

        `together`: the ranks agree later on what a RewardStopped does (`reward_budget.hold_budget`).
        """
        live = next(each for each in self.rewards if each.name == name)
        self._asked[name] = calls = self.submit(live, groups)
        self.wait(calls)
        if not together and (end := stopped({name: calls})) is not None:
            raise end
        return calls

    def progress(self, name: str) -> tuple[str, int, int]:
        """Which reward, how many of its newest calls are done, and of how many."""
        calls = self._asked.get(name, ())
        return f"reward {name}", sum(call.result is not None for call in calls), len(calls)

    def wait(self, calls: Sequence[Call]) -> None:
        """Until every call has a result, by itself or because its time was up, or because nothing more is asked."""
        with self._finished:
            while any(call.result is None for call in calls) and stopped({"": calls}) is None:
                self._give_up_late(calls)
                self._finished.wait(POLL_SECONDS)
            for call in calls:
                call.result = call.result if call.result is not None else NOT_ASKED
        for call in calls:
            if isinstance(call.fatal, PluginError):
                raise call.fatal

    def close(self) -> None:
        """Let the threads end and the rewards free what they hold."""
        for line in self._all_lines():
            for _ in range(line.threads):
                line.waiting.put(())
        close_all(live.reward.close for live in self.rewards)

    def _all_lines(self) -> Collection[Line]:
        return {id(line): line for line in self._lines.values()}.values()

    def _start_thread(self, line: Line) -> None:
        # Daemons: a thread that hangs in somebody's reward must not keep the process alive.
        threading.Thread(target=self._work, args=(line,), name="reward", daemon=True).start()

    def _work(self, line: Line) -> None:
        while calls := line.waiting.get():
            began = time.monotonic()
            with self._finished:
                if calls[0].live.name in self._ended:
                    for call in calls:
                        call.result = NOT_ASKED
                    continue
                for call in calls:
                    call.started = began
            results = _scored(calls)
            with self._finished:
                if isinstance(calls[0].fatal, RewardStopped):
                    self._ended.add(calls[0].live.name)
                given_up = calls[0].result not in (None, NOT_ASKED)
                for call, result in zip(calls, results, strict=True):
                    call.result = result if call.result is None else call.result
                self._finished.notify_all()
            if given_up:
                return  # a replacement has taken this thread's place

    def _give_up_late(self, calls: Sequence[Call]) -> None:
        now = time.monotonic()
        for call in calls:
            late = call.started is not None and now - call.started > call.live.section.timeout
            if late and call.result is None:
                call.result = Scored(None, f"no answer within {call.live.section.timeout:g} s")
                if call.first:
                    self._start_thread(self._lines[call.live.name])


def _scored(calls: Sequence[Call]) -> list[Scored]:
    """The reward's word on each of what it is asked together, held against its contract."""
    try:
        span = calls[0].live.reward.range
        return [
            scored(found, *span, completion=call.rollout.completion)
            for call, found in zip(calls, _asked(calls), strict=True)
        ]
    except BaseException as error:  # somebody else's code: its failure is a missing value, counted and shown
        for call in calls:
            call.error = error
        if isinstance(error, RewardStopped):
            calls[0].fatal = error
        return [Scored(None, text(words(error)))] * len(calls)


def _asked(calls: Sequence[Call]) -> Sequence[object]:
    """What the reward says of each; of somebody else's code nobody knows what it does to what it is handed."""
    reward = calls[0].live.reward
    given, whose = [(call.rollout, call.dialogue) for call in calls], origin(reward)
    if whose.own:
        return _said(reward, given)
    given, settings = [(lent_rollout(rollout), lent_dialogue(dialogue)) for rollout, dialogue in given], Settings()
    try:
        return _said(reward, given)
    finally:
        if changed := settings.put_back():
            method = type(reward).score if reward.batch_size == 1 else type(reward).score_batch
            calls[0].fatal = left_changed(whose, method.__name__, changed, code=method.__code__)


def _said(reward: Reward, given: Sequence[tuple[Rollout, Dialogue]]) -> Sequence[object]:
    if reward.batch_size == 1:
        return [reward.score(*each) for each in given]
    found = reward.score_batch([rollout for rollout, _ in given], [dialogue for _, dialogue in given])
    if not isinstance(found, list | tuple) or len(found) != len(given):
        count = len(found) if isinstance(found, list | tuple) else type(found).__name__
        raise ValueError(f"score_batch gave {count} results for {len(given)} answers")
    return found
