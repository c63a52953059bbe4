"""What rewards say of a step's answers, on one scale.

A reward that raises, hangs or gives something that is no number gives None with the reason; never a number. What a
missing value does to its sample, its group or the run is the recipe's word (`on_failure`, `reward_failure_budget`). An
answer that has nothing to score is no failure of the reward: `on_absent` says what it is worth, the lowest value unless
told otherwise. What the token limit cut off is judged by `rollout.truncated`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from wavalign.engine.contracts.origins import origin
from wavalign.engine.step.reward_corrections import corrected_word
from wavalign.engine.step.reward_noise import own_errors, total_noise
from wavalign.engine.step.reward_pool import Call, LiveReward
from wavalign.errors import PluginError
from wavalign.plugins.api import text_is_enough
from wavalign.plugins.batch import Answer, RolloutGroup, Scored


@final
@dataclass(frozen=True, slots=True)
class Spent:
    """Calls of a step so far, on all ranks."""

    calls: int = 0
    """Of each reward."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """Per reward those that failed."""
    counts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Per reward what it counts itself (`Reward.counts`)."""


@final
@dataclass(frozen=True, slots=True)
class Scores:
    """What the rewards said of the groups of a step."""

    total: Tensor
    """[P, G] float64 on the common scale; NaN where there is no reward."""
    parts: Mapping[str, Tensor]
    """Per reward [P, G] float64, scaled; NaN where it failed, or where `on_absent` drops an answer without a value.
    Guards are not among them."""
    words: Mapping[str, tuple[tuple[Scored, ...], ...]]
    """Per reward the raw answers, [P][G]."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """Per reward the calls that failed; an answer with nothing to score is none."""
    absent: Mapping[str, Tensor] = field(default_factory=dict)
    """Per reward bool [P, G]: the answer had nothing to score."""
    judged: Mapping[str, Tensor] = field(default_factory=dict)
    """As `parts`, with the lowest value for answers that count so because they were cut off, and what guards leave;
    empty where no rule changes a value."""
    spent: Spent = Spent()
    """What the step has asked so far, answers that are not kept among them."""
    errors: Mapping[str, Tensor] = field(default_factory=dict)
    """Per reward [P, G] float64: variance that its own error adds to the total; NaN where it gave no value or states
    none, 0 where a rule of the recipe made the value."""
    guards: Mapping[str, Tensor] = field(default_factory=dict)
    """Per guard [P, G] float64, in its own range; NaN as in `parts`."""
    tripped: Mapping[str, Tensor] = field(default_factory=dict)
    """Per guard bool [P, G]: answers that it takes something off, or leaves out, by its value."""

    @property
    def noise(self) -> Tensor:
        """[P, G] float64: variance of the total's own error as far as rewards state one; NaN where none does."""
        return total_noise(self.errors, self.total)

    @property
    def judged_parts(self) -> dict[str, Tensor]:
        """Per reward [P, G] what answers with a total are to be learned from; NaN where there is no value."""
        gone = self.total.isnan()
        return {name: part.masked_fill(gone, math.nan) for name, part in (self.judged or self.parts).items()}


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
                table[call.place[0]][call.place[1]] = corrected_word(call.result, live.correction)
        words[live.name] = tuple(tuple(row) for row in table)
        values = [[math.nan if cell.value is None else cell.value for cell in row] for row in table]
        scaled = scale(torch.tensor(values, dtype=torch.float64).view(shape), live)
        absences = [[cell.value is None and cell.blame == "answer" for cell in row] for row in table]
        gone = torch.tensor(absences, dtype=torch.bool).view(shape)
        if live.section.on_absent == "lowest" and gone.any():
            scaled = torch.where(gone, lowest(live, "on_absent: drop_sample"), scaled)
        parts[live.name], absent[live.name] = scaled, gone
        failed[live.name] = int((scaled.isnan() & ~gone).sum())
    guards = {live.name: parts.pop(live.name) for live in rewards if live.is_guard}
    weights = {live.name: (live.section.weight, slope(live)) for live in counted(rewards)}
    errors = own_errors(words, parts, absent, weights)
    nothing = torch.full(shape, math.nan, dtype=torch.float64)
    total = combine(counted(rewards), parts, absent) if parts else nothing
    return Scores(total, parts, words, failed, absent, errors=errors, guards=guards)


def counted(rewards: Sequence[LiveReward]) -> list[LiveReward]:
    """Those that the total is made of: all but guards."""
    return [live for live in rewards if not live.is_guard]


def floor_of(rewards: Sequence[LiveReward], least: Mapping[str, float]) -> float:
    """The lowest total there is, from the lowest value of each of `rewards`."""
    weights = [live.section.weight for live in rewards]
    return sum(least[live.name] * live.section.weight for live in rewards) / sum(weights)


def scale(values: Tensor, live: LiveReward) -> Tensor:
    """Map [P, G] from the plugin's range to the recipe's `scale`."""
    if live.section.scale is None:
        return values
    (low, high), (to_low, to_high) = live.range, live.section.scale
    return to_low + (values - low) * (to_high - to_low) / (high - low)


def slope(live: LiveReward) -> float:
    """What the recipe's `scale` multiplies a difference of values by; values of single tokens, whose 0 stays 0, too."""
    if live.section.scale is None:
        return 1.0
    (low, high), (to_low, to_high) = live.range, live.section.scale
    return (to_high - to_low) / (high - low)


def lowest(live: LiveReward, otherwise: str) -> float:
    """The lowest value of a reward on the recipe's scale; PluginError where it has none."""
    low = live.range[0] if live.section.scale is None else live.section.scale[0]
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
    counting = counted(rewards)
    least = {live.name: lowest(live, "rollout.truncated: mask") for live in counting}
    worth = floor_of(counting, least)
    judged = {name: part.masked_fill(cut, least[name]) for name, part in (scores.judged or scores.parts).items()}
    errors = {name: each.masked_fill(cut, 0.0) for name, each in scores.errors.items()}
    return replace(scores, total=torch.where(cut, worth, scores.total), judged=judged, errors=errors)
