"""Rewards on worker threads, and what happens when they fail.

A reward that raises, hangs or gives something that is no number gives None with the reason; never a number. What a
missing value does to its sample, its group or the run is the recipe's word (`on_failure`, `reward_failure_budget`). An
answer that has nothing to score is no failure of the reward: `on_absent` says what it is worth, the lowest value unless
told otherwise. What the token limit cut off is judged by `rollout.truncated`.
"""

import math
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from wavalign.crash_log import keep_traceback
from wavalign.engine.contracts.origins import close_all, origin
from wavalign.engine.contracts.rollouts import lent_dialogue, lent_rollout, scored
from wavalign.engine.contracts.values import text
from wavalign.engine.state.distributed import World
from wavalign.engine.step.reward_noise import own_errors, total_noise
from wavalign.errors import PluginError, RewardBudgetError
from wavalign.plugins.api import Reward, text_is_enough
from wavalign.plugins.batch import Answer, Dialogue, Rollout, RolloutGroup, Scored
from wavalign.plugins.guard import left_changed, words
from wavalign.plugins.settings import Settings
from wavalign.schema.reward import RewardSection

POLL_SECONDS = 0.05


@final
@dataclass(frozen=True, slots=True)
class LiveReward:
    """A constructed reward with its section."""

    name: str
    reward: Reward
    section: RewardSection

    def __post_init__(self) -> None:
        """Refuse a range that the scale cannot map, where the reward's object has set it."""
        low, high = self.reward.range
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
    fatal: PluginError | None = None
    """Why the run cannot go on: the reward has changed what everybody's numbers hang on."""


@final
@dataclass(frozen=True, slots=True)
class Spent:
    """Calls of a step so far, on all ranks."""

    calls: int = 0
    """Of each reward."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """Per reward those that failed."""


@final
@dataclass(frozen=True, slots=True)
class Scores:
    """What the rewards said of the groups of a step."""

    total: Tensor
    """[P, G] float64 on the common scale; NaN where there is no reward."""
    parts: Mapping[str, Tensor]
    """Per reward [P, G] float64, scaled; NaN where it failed, or where `on_absent` drops an answer without a value."""
    words: Mapping[str, tuple[tuple[Scored, ...], ...]]
    """Per reward the raw answers, [P][G]."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """Per reward the calls that failed; an answer with nothing to score is none."""
    absent: Mapping[str, Tensor] = field(default_factory=dict)
    """Per reward bool [P, G]: the answer had nothing to score."""
    judged: Mapping[str, Tensor] = field(default_factory=dict)
    """As `parts`, with the lowest value for answers that count so because they were cut off; empty where none do."""
    spent: Spent = Spent()
    """What the step has asked so far, answers that are not kept among them."""
    errors: Mapping[str, Tensor] = field(default_factory=dict)
    """Per reward [P, G] float64: variance that its own error adds to the total; NaN where it gave no value or states
    none, 0 where a rule of the recipe made the value."""

    @property
    def noise(self) -> Tensor:
        """[P, G] float64: variance of the total's own error as far as rewards state one; NaN where none does."""
        return total_noise(self.errors, self.total)

    @property
    def judged_parts(self) -> dict[str, Tensor]:
        """Per reward [P, G] what answers with a total are to be learned from; NaN where there is no value."""
        gone = self.total.isnan()
        return {name: part.masked_fill(gone, math.nan) for name, part in (self.judged or self.parts).items()}


@final
class RewardPool:
    """Threads that score. A call that outlives its timeout is given up and its thread replaced."""

    def __init__(self, rewards: Sequence[LiveReward], workers: int) -> None:
        self.rewards = tuple(rewards)
        self._queue: queue.SimpleQueue[Sequence[Call]] = queue.SimpleQueue()
        """Calls that are asked together; none ends a thread."""
        self._finished = threading.Condition()
        self._workers = workers
        self._asked: dict[str, Sequence[Call]] = {}
        """By reward, its newest calls."""
        for _ in range(workers if rewards else 0):
            self._start_thread()

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
            self._queue.put(together)
        return calls

    def score(self, name: str, groups: Sequence[RolloutGroup]) -> Sequence[Call]:
        """One reward on every rollout, when every call has a result; raises what the run cannot go on from."""
        live = next(each for each in self.rewards if each.name == name)
        self._asked[name] = calls = self.submit(live, groups)
        self.wait(calls)
        return calls

    def progress(self, name: str) -> tuple[str, int, int]:
        """Which reward, how many of its newest calls are done, and of how many."""
        calls = self._asked.get(name, ())
        return f"reward {name}", sum(call.result is not None for call in calls), len(calls)

    def wait(self, calls: Sequence[Call]) -> None:
        """Until every call has a result, by itself or because its time was up."""
        with self._finished:
            while any(call.result is None for call in calls):
                self._give_up_late(calls)
                self._finished.wait(POLL_SECONDS)
        for call in calls:
            if call.fatal is not None:
                raise call.fatal

    def close(self) -> None:
        """Let the threads end and the rewards free what they hold."""
        for _ in range(self._workers):
            self._queue.put(())
        close_all(live.reward.close for live in self.rewards)

    def _start_thread(self) -> None:
        # Daemons: a thread that hangs in somebody's reward must not keep the process alive.
        threading.Thread(target=self._work, name="reward", daemon=True).start()

    def _work(self) -> None:
        while calls := self._queue.get():
            began = time.monotonic()
            for call in calls:
                call.started = began
            results = _scored(calls)
            with self._finished:
                given_up = calls[0].result is not None
                for call, result in zip(calls, results, strict=True):
                    call.result = call.result if given_up else result
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
                    self._start_thread()


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


def collect_scores(
    rewards: Sequence[LiveReward], calls: Mapping[str, Sequence[Call]], shape: tuple[int, int]
) -> Scores:
    """Finished calls to scaled values [P, G] and their weighted total."""
    parts: dict[str, Tensor] = {}
    words: dict[str, tuple[tuple[Scored, ...], ...]] = {}
    failed: dict[str, int] = {}
    absent: dict[str, Tensor] = {}
    for live in rewards:
        table = [[Scored(None, "not called")] * shape[1] for _ in range(shape[0])]
        for call in calls[live.name]:
            if call.result is not None:
                table[call.place[0]][call.place[1]] = call.result
        words[live.name] = tuple(tuple(row) for row in table)
        values = [[math.nan if cell.value is None else cell.value for cell in row] for row in table]
        scaled = scale(torch.tensor(values, dtype=torch.float64).view(shape), live)
        absences = [[cell.value is None and cell.blame == "answer" for cell in row] for row in table]
        gone = torch.tensor(absences, dtype=torch.bool).view(shape)
        if live.section.on_absent == "lowest" and gone.any():
            scaled = torch.where(gone, lowest(live, "on_absent: drop_sample"), scaled)
        parts[live.name], absent[live.name] = scaled, gone
        failed[live.name] = int((scaled.isnan() & ~gone).sum())
    weights = {live.name: (live.section.weight, slope(live)) for live in rewards}
    errors = own_errors(words, parts, absent, weights)
    return Scores(combine(rewards, parts, absent), parts, words, failed, absent, errors=errors)


def scale(values: Tensor, live: LiveReward) -> Tensor:
    """Map [P, G] from the plugin's range to the recipe's `scale`."""
    if live.section.scale is None:
        return values
    (low, high), (to_low, to_high) = live.reward.range, live.section.scale
    return to_low + (values - low) * (to_high - to_low) / (high - low)


def slope(live: LiveReward) -> float:
    """What the recipe's `scale` multiplies a difference of values by; values of single tokens, whose 0 stays 0, too."""
    if live.section.scale is None:
        return 1.0
    (low, high), (to_low, to_high) = live.reward.range, live.section.scale
    return (to_high - to_low) / (high - low)


def lowest(live: LiveReward, otherwise: str) -> float:
    """The lowest value of a reward on the recipe's scale; PluginError where it has none."""
    low = live.reward.range[0] if live.section.scale is None else live.section.scale[0]
    if not math.isfinite(low):
        message = f"{origin(live.reward)}: reward `{live.name}` has no lowest value, its range begins at {low:g}"
        raise PluginError(message, hint=f"declare a finite range, or set {otherwise}", placed=True)
    return low


def combine(
    rewards: Sequence[LiveReward], parts: Mapping[str, Tensor], absent: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Weighted mean [P, G] of the parts; `on_failure` and `on_absent` decide what a missing part does."""
    first = next(iter(parts.values()))
    total, weights = torch.zeros_like(first), torch.zeros_like(first)
    dropped = torch.zeros_like(first, dtype=torch.bool)
    for live in rewards:
        values, missing = parts[live.name], parts[live.name].isnan()
        total += torch.where(missing, 0.0, values) * live.section.weight
        weights += (~missing).double() * live.section.weight  # `where` with two numbers gives 32 bits
        gone = torch.zeros_like(missing) if absent is None else absent[live.name]
        for rule, where in ((live.section.on_failure, missing & ~gone), (live.section.on_absent, missing & gone)):
            if rule == "drop_sample":
                dropped |= where
            elif rule == "drop_group":
                dropped |= where.any(dim=1, keepdim=True)
    return torch.where(dropped | (weights == 0), math.nan, total / torch.where(weights == 0, 1.0, weights))


def cut_off(answer: Answer, rewards: Sequence[LiveReward]) -> bool:
    """Whether the token limit cut off what the rewards look at: the text alone, or else the whole answer.

    So what the sound is sampled for beside them, such as a KL, changes no reward.
    """
    reads_text_alone = all(text_is_enough(live.reward.needs) for live in rewards)
    return not (answer.text_finished if reads_text_alone else answer.finished)


def judge_truncated(scores: Scores, rewards: Sequence[LiveReward], groups: Sequence[RolloutGroup], rule: str) -> Scores:
    """`scores` with the total of answers that were cut off as `rollout.truncated` says; a missing total stays so."""
    cut = torch.tensor([[cut_off(rollout.answer, rewards) for rollout in group.rollouts] for group in groups])
    if rule == "keep" or not cut.any():
        return scores
    cut = cut & ~scores.total.isnan()
    if rule == "mask":
        return replace(scores, total=scores.total.masked_fill(cut, math.nan))
    least = {live.name: lowest(live, "rollout.truncated: mask") for live in rewards}
    weights = [live.section.weight for live in rewards]
    worth = sum(least[live.name] * live.section.weight for live in rewards) / sum(weights)
    judged = {name: part.masked_fill(cut, least[name]) for name, part in scores.parts.items()}
    errors = {name: each.masked_fill(cut, 0.0) for name, each in scores.errors.items()}
    return replace(scores, total=torch.where(cut, worth, scores.total), judged=judged, errors=errors)


def hold_budget(
    scores: Scores, made: Mapping[str, Sequence[Call]], pool: RewardPool, world: World, *, budget: float, spent: Spent
) -> Spent:
    """Hold the failures of all ranks against the budget, so that all go on or none; a traceback is kept.

    `spent` has the calls of the step, these among them, and what failed before; what is given has these failures too.
    """
    counts = torch.tensor(list(scores.failed.values()), device=world.device)
    found = dict(zip(scores.failed, world.all_reduce_sum(counts).tolist(), strict=True))
    failed = {name: count + spent.failed.get(name, 0) for name, count in found.items()}
    try:
        check_budget(scores, pool.rewards, failed, calls=spent.calls, budget=budget)
    except RewardBudgetError as error:
        raised = next((call.error for each in made.values() for call in each if call.error is not None), None)
        path = keep_traceback(raised) if raised is not None else None
        if path is not None:
            error.hint = f"{error.hint}; the traceback of one is in {path}"
        raise
    return Spent(spent.calls, failed)


def _failed(cell: Scored) -> bool:
    return cell.value is None and cell.blame == "reward"


def check_budget(
    scores: Scores, rewards: Sequence[LiveReward], failed: Mapping[str, int], *, calls: int, budget: float
) -> None:
    """Stop the run when a reward may not fail and did, or when too many calls failed; RewardBudgetError.

    `failed` and `calls` count the calls of each reward on all ranks, so that every rank comes to the same end.
    """
    for live in rewards:
        if not failed[live.name]:
            continue
        reasons = (cell.reason for row in scores.words[live.name] for cell in row if _failed(cell))
        first = next(reasons, "on another process")
        count = f"{failed[live.name]} of {calls} calls of reward `{live.name}` failed (first: {first})"
        if live.section.on_failure == "abort":
            raise RewardBudgetError(count, hint="its on_failure is abort; mend the reward or choose drop_sample")
        if failed[live.name] / calls > budget:
            hint = f"runtime.reward_failure_budget is {budget:g}; mend the reward or raise the budget, then --resume"
            raise RewardBudgetError(count, hint=hint)
