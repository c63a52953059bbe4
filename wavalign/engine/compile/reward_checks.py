"""Rules of reward models: what a stage learns one from, what a reward's options make of its range, who is the best."""

import inspect
import math
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from wavalign.engine.compile.operators import ROLLOUTS, judged
from wavalign.engine.compile.plan import TermPlan
from wavalign.engine.contracts.rollouts import range_problem
from wavalign.plugins.api import Reward
from wavalign.plugins.guard import Guard, origin_of
from wavalign.schema.marks import Path
from wavalign.schema.reward import RewardSection
from wavalign.schema.stage import Stage
from wavalign.schema.translation import did_you_mean

Noted = tuple[str, str, Path, str]
"""Code, message, path and hint of a problem."""
_OWN_TERMS = "state its own terms: objective: !replace {terms: {preference: {loss: {type: bradley_terry}}}}"


def judging_problems(terms: Sequence[TermPlan]) -> Iterator[Noted]:
    """Of a reward model's terms each learns from data alone, and those that judge read one scalar output."""
    heads = 0
    for term in terms:
        path: Path = ("objective", "terms", term.brought_by or term.name)
        if term.family == ROLLOUTS:
            message = f"term `{term.name}` learns from rollouts, and a reward_model stage samples none"
            yield "conflict", message, path, _OWN_TERMS
        heads += len(judged(term)) if term.lives else 0
        if len(judged(term)) > 1:
            message = f"term `{term.name}` reads {', '.join(judged(term))}; a facet of a reward model is one"
            yield "conflict", message, path, "make a term of each"
    if terms and not heads:
        message = "no term of the reward_model stage reads a scalar output, so that it learns no reward"
        yield "bad_value", message, ("objective", "terms"), "add a term `{loss: {type: bradley_terry}}`"


def held_out_problems(stage: Stage) -> Iterator[Noted]:
    """What a reward model is judged by must be there."""
    if not stage.data.evaluation:
        message = "a reward_model stage needs data.evaluation: held-out pairs that say how often it is right"
        hint = "add splits of pairs, e.g. `evaluation: {golden: {type: jsonl, path: heldout.jsonl}}`"
        yield "missing_section", message, ("data", "evaluation"), hint


def best_of_problems(stage: Stage) -> Iterator[Noted]:
    """What it takes to choose among several held-out answers."""
    best, sampling = stage.evaluation.best_of, stage.evaluation.sampling
    if best is None:
        return
    path: Path = ("evaluation", "best_of")
    if not any((sampling.temperature, *(each.temperature or 0 for each in sampling.streams.values()))):
        message = f"the best of {best.n} answers is asked for, and at temperature 0 all of them are the same"
        yield "bad_value", message, (*path, "n"), "set evaluation.sampling.temperature, e.g. 0.8"
    if sampling.group_size > 1:
        message = "best_of keeps one answer to a dialogue, and evaluation.sampling.group_size shows several"
        yield "conflict", message, path, "leave one of the two out; measure diversity in another stage"
    if not stage.rewards:
        hint = "add rewards, e.g. {judge: {type: reward_model, stage: NAME}}"
        yield "missing_section", "the best answer has the highest reward, and there are no rewards", path, hint
    elif best.reward is not None and best.reward not in stage.rewards:
        hint = did_you_mean(best.reward, tuple(stage.rewards)) or f"there are: {', '.join(stage.rewards)}"
        yield "unknown_key", f"there is no reward `{best.reward}`", (*path, "reward"), hint


def range_problems(stage: Stage, name: str, plugin: type[Reward]) -> Iterator[Noted]:
    """What a reward's class says it can give, and whether a scale can map it; an object's shows when it is made."""
    reward, path = stage.rewards[name], ("rewards", name)
    corrected = reward.calibration is not None and reward.calibration.correction != "none"  # to the people's scale
    declared = declared_range(reward, plugin)
    if not isinstance(declared, tuple | list) or len(declared) != 2:
        return
    if problem := range_problem(*declared):
        hint = f"its class declares `range`: the lowest and the highest value it can give ({plugin.__module__})"
        yield "bad_plugin", f"reward `{name}` ({reward.type}) {problem}", path, hint
    elif corrected:
        return
    elif reward.scale is not None and not math.isfinite(declared[1] - declared[0]):
        message = f"reward `{name}` ({reward.type}) goes from {declared[0]:g} to {declared[1]:g}"
        hint = "remove the scale, or declare a finite range on the reward's class"
        yield "conflict", f"{message}, which no scale can map", (*path, "scale"), hint
    elif (
        not corrected
        and reward.scale is None
        and not math.isfinite(declared[0])
        and stage.rollout.truncated == "lowest"
    ):
        message = f"reward `{name}` ({reward.type}) has no lowest value for answers that are cut off"
        yield "conflict", message, path, "set rollout.truncated: mask (or keep), or declare a finite range"


def declared_needs(reward: RewardSection, plugin: type[Reward]) -> frozenset[str]:
    """What a reward needs of an answer: as its options say, else its class."""
    with Guard(origin_of(plugin, "reward", reward.type), "options", passes=(ValidationError,)):
        try:
            params = plugin.Params.model_validate(dict(reward.params))
        except ValidationError:  # noted with its options
            return frozenset(plugin.needs)
    with Guard(origin_of(plugin, "reward", reward.type), "needs_of"):
        found = plugin.needs_of(params)
    return frozenset(plugin.needs if found is None else found)


def declared_range(reward: RewardSection, plugin: type[Reward]) -> Any:
    """The range that its options give it, else that of its class; None where neither says."""
    with Guard(origin_of(plugin, "reward", reward.type), "options", passes=(ValidationError,)):
        try:
            params = plugin.Params.model_validate(dict(reward.params))
        except ValidationError:  # noted with its options
            return None
    with Guard(origin_of(plugin, "reward", reward.type), "range_of"):
        found = plugin.range_of(params)
    return inspect.getattr_static(plugin, "range", None) if found is None else found
