"""Rules of guards: rewards that take no part in the total and say which answers count for nothing."""

import math
from collections.abc import Iterator, Mapping

from wavalign.engine.compile.reward_checks import Noted, declared_range
from wavalign.plugins.api import Reward
from wavalign.schema.marks import Path
from wavalign.schema.pairs import Ranked
from wavalign.schema.reward import RewardSection
from wavalign.schema.stage import Stage


def guard_detail(reward: RewardSection) -> str:
    """What a plan says of a reward: its type, and what becomes of an answer where it is a guard."""
    if reward.guard is None:
        return reward.type
    where = (
        "" if reward.guard == "multiply" else f" below {'its middle' if reward.below is None else f'{reward.below:g}'}"
    )
    return f"{reward.type}, guard: {reward.guard}{where}"


def guard_problems(stage: Stage, known: Mapping[str, type[Reward]]) -> Iterator[Noted]:
    """What it takes to guard; `known` are the plugins of the rewards that are asked."""
    guards = {name: each for name, each in stage.rewards.items() if each.guard is not None}
    if not guards:
        return
    if len(guards) == len(stage.rewards):
        hint = "add a reward that counts, or leave `guard` out of one of them"
        yield "missing_section", "all rewards are guards, and there is nothing to guard", ("rewards",), hint
    for name, guard in guards.items():
        if name in known and guard.calibration is None:  # that of a calibration is known when it is read
            yield from _span(name, guard, known[name])
    lowering = [name for name, each in guards.items() if each.guard in ("lowest", "multiply")]
    for name, plugin in known.items():
        if lowering and name not in guards and _is_bottomless(stage.rewards[name], plugin):
            message = f"guard `{lowering[0]}` counts answers as the lowest, and reward `{name}` has no lowest value"
            hint = f"set rewards.{lowering[0]}.guard: drop_sample, or take a reward with a finite range"
            yield "conflict", message, ("rewards", lowering[0], "guard"), hint
    yield from _chosen_by(stage, guards)


def _span(name: str, guard: RewardSection, plugin: type[Reward]) -> Iterator[Noted]:
    """Whether the guard's value can be held against anything."""
    found, path = declared_range(guard, plugin), ("rewards", name)
    if not isinstance(found, tuple | list) or len(found) != 2:
        return
    low, high = found
    if not math.isfinite(high - low):
        if guard.guard == "multiply":
            message = f"guard `{name}` ({guard.type}) goes from {low:g} to {high:g}, which is no share to multiply by"
            yield "conflict", message, (*path, "guard"), "use `guard: lowest` with `below`"
        elif guard.below is None:
            message = f"guard `{name}` ({guard.type}) goes from {low:g} to {high:g}, which has no middle"
            yield "missing_section", message, path, "set `below`: what its value must reach"
    if guard.below is not None and not low < guard.below <= high:
        what = "no answer" if guard.below <= low else "every answer"
        message = f"`below` is {guard.below:g}, and {guard.type} goes from {low:g} to {high:g}: {what} would trip"
        yield "bad_value", message, (*path, "below"), f"set it above {low:g} and up to {high:g}"


def _is_bottomless(reward: RewardSection, plugin: type[Reward]) -> bool:
    found = declared_range(reward, plugin)
    is_range = isinstance(found, tuple | list) and len(found) == 2
    return reward.scale is None and is_range and not math.isfinite(found[0])


def _chosen_by(stage: Stage, guards: Mapping[str, RewardSection]) -> Iterator[Noted]:
    """A guard says of no answer that it is better than another."""
    hint = "name a reward that is no guard; guards are asked in any case"
    best = stage.evaluation.best_of
    if best is not None and best.reward in guards:
        path: Path = ("evaluation", "best_of", "reward")
        yield "conflict", f"`{best.reward}` is a guard, and prefers no answer", path, hint
    if stage.type == "pairs" and isinstance(stage.pairs, Ranked):
        for name in (each for each in stage.pairs.facets if each in guards):
            yield "conflict", f"`{name}` is a guard, and no facet", ("pairs", "facets", name), hint
