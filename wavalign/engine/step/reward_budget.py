"""What the rewards of a step have cost, and when they end the run: calls that failed, and rewards that cannot go on.

Every rank comes to the same end: what each has counted is summed before anything is decided.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from wavalign.crash_log import keep_traceback
from wavalign.engine.state.distributed import World
from wavalign.engine.step.reward_pool import Call, LiveReward, RewardPool, stopped
from wavalign.engine.step.rewards import Scores, Spent
from wavalign.errors import RewardBudgetError, RewardStopped
from wavalign.plugins.batch import Scored

N = TypeVar("N", int, float)


def hold_budget(
    scores: Scores, made: Mapping[str, Sequence[Call]], pool: RewardPool, world: World, *, budget: float, spent: Spent
) -> Spent:
    """Sum over ranks what failed and what rewards counted, so that all go on or none; a traceback is kept.

    `spent` has the calls of the step, these among them, and what failed and was counted before; what is given has these
    too. Raises RewardStopped on every rank where a reward of one cannot go on, else what `check_budget` raises.
    """
    counting = [live for live in pool.rewards if live.reward.counts]
    end = stopped(made)
    mine = {
        "stopped": None if end is None else (end.message, end.hint),
        "failed": scores.failed,
        "counts": {live.name: dict(live.reward.tally()) for live in counting},
    }
    ranks = world.gather(mine)
    counts = {live.name: _sums(each["counts"][live.name] for each in ranks) for live in counting}
    for live in counting:
        live.reward.settle(counts[live.name])
    said = next((each["stopped"] for each in ranks if each["stopped"]), None)
    if said is not None:
        raise end or RewardStopped(said[0], hint=said[1])
    found = Spent(
        spent.calls,
        _sums((spent.failed, *(each["failed"] for each in ranks))),
        {name: _sums((spent.counts.get(name, {}), each)) for name, each in counts.items()},
    )
    try:
        check_budget(scores, pool.rewards, found.failed, calls=spent.calls, budget=budget)
    except RewardBudgetError as error:
        raised = next((call.error for each in made.values() for call in each if call.error is not None), None)
        path = keep_traceback(raised) if raised is not None else None
        if path is not None:
            error.hint = f"{error.hint}; the traceback of one is in {path}"
        raise
    return found


def _sums(found: Iterable[Mapping[str, N]]) -> dict[str, N]:
    """The sum of each name."""
    whole: dict[str, N] = {}
    for each in found:
        whole |= {name: whole[name] + value if name in whole else value for name, value in each.items()}
    return whole


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
