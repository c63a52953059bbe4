"""Guards: rewards that take no part in the total and say which answers count for nothing.

An answer trips a guard where the guard's value is under the recipe's `below`, and where the guard has nothing to score
(`on_absent: lowest`). It then counts as the lowest (`guard: lowest`), is left out (`drop_sample`), or its group is
(`drop_group`). With `guard: multiply` nothing trips: what a total has above the lowest is multiplied by

    m = (v - low) / (high - low)

for a value v of the guard's range. A guard that fails says nothing of an answer: its `on_failure` does. Guards are
asked of all answers, and their order changes nothing. Letters: P prompts, G group.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from wavalign.engine.step.reward_pool import LiveReward
from wavalign.engine.step.rewards import Scores, counted, floor_of, lowest

NOTHING_TAKEN = 1 - 1e-9
"""A factor from here on takes nothing off."""


@final
@dataclass(frozen=True, slots=True)
class _Verdict:
    """What one guard makes of the answers."""

    tripped: Tensor
    """Bool [P, G]: what it takes off, or drops, by its value."""
    dropped: Tensor
    """Bool [P, G]: answers that are left out."""
    factor: Tensor
    """[P, G] float64, 0 to 1: what remains above the lowest."""


def guarded(scores: Scores, rewards: Sequence[LiveReward]) -> Scores:
    """`scores` with the totals as the guards among `rewards` leave them; a missing total stays so."""
    guards = [live for live in rewards if live.is_guard]
    if not guards:
        return scores
    found = {live.name: _verdict(live, scores) for live in guards}
    dropped = torch.stack([each.dropped for each in found.values()]).any(dim=0)
    factor = torch.stack([each.factor for each in found.values()]).prod(dim=0)
    changed = replace(
        scores,
        total=scores.total.masked_fill(dropped, math.nan),
        tripped={name: each.tripped for name, each in found.items()},
    )
    return _lowered(changed, counted(rewards), factor) if scores.parts else changed


def threshold(live: LiveReward) -> float:
    """What a guard's value must reach: the recipe's `below`, or the middle of its range."""
    low, high = live.range
    return (low + high) / 2 if live.section.below is None else live.section.below


def tripped_by(scores: Scores, place: tuple[int, int]) -> list[str]:
    """Names of the guards that the answer at `place` trips."""
    return [name for name, table in scores.tripped.items() if bool(table[place])]


def _verdict(live: LiveReward, scores: Scores) -> _Verdict:
    section, value, gone = live.section, scores.guards[live.name], scores.absent[live.name]
    missing = value.isnan()
    dropped = torch.zeros_like(missing)
    factor = torch.ones_like(value)
    if section.guard == "multiply":
        low, high = live.range
        factor = torch.where(missing, 1.0, (value - low) / (high - low))
        tripped = factor < NOTHING_TAKEN
    else:
        tripped = (value < threshold(live)) | (gone & ~missing)
        factor = torch.where(tripped & (section.guard == "lowest"), torch.zeros_like(factor), factor)
        dropped = dropped | _rule(section.guard, tripped)
    dropped = dropped | _rule(section.on_failure, missing & ~gone) | _rule(section.on_absent, missing & gone)
    return _Verdict(tripped, dropped, factor)


def _rule(rule: str | None, where: Tensor) -> Tensor:
    """Bool [P, G]: what is left out where `rule` meets answers `where` [P, G]."""
    if rule == "drop_group":
        return where.any(dim=1, keepdim=True).expand_as(where)
    return where if rule == "drop_sample" else torch.zeros_like(where)


def _lowered(scores: Scores, rewards: Sequence[LiveReward], factor: Tensor) -> Scores:
    """Totals and parts brought down to `factor` [P, G] of what they have above the lowest."""
    if not bool((factor < 1).any()):
        return scores
    least = {live.name: lowest(live, "guard: drop_sample") for live in rewards}
    worth = floor_of(rewards, least)
    # A failed part stays missing unless nothing of the answer counts.
    parts: Mapping[str, Tensor] = {
        name: torch.where(factor > 0, least[name] + factor * (part - least[name]), least[name])
        for name, part in (scores.judged or scores.parts).items()
    }
    total = torch.where(factor < 1, worth + factor * (scores.total - worth), scores.total)
    errors = {name: torch.where(factor > 0, each * factor.square(), 0.0) for name, each in scores.errors.items()}
    return replace(scores, total=total, judged=parts, errors=errors)
