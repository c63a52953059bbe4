"""Best of n: of n answers to a prompt the one that rewards prefer, for what is measured on it.

Whoever measures the answer that is kept measures the policy and the rewards together, at n times the sampling.
Source: best-of-N decoding, as in SpeechAlign (arXiv 2404.05600), which takes a learned reward model.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch

from wavalign.engine.state.seeds import generator
from wavalign.engine.step.guards import guarded
from wavalign.engine.step.reward_budget import check_budget
from wavalign.engine.step.reward_inputs import shown_to
from wavalign.engine.step.reward_pool import RewardPool
from wavalign.engine.step.rewards import collect_scores, judge_truncated
from wavalign.engine.step.rollouts import Roller
from wavalign.plugins.api import Policy, SamplingOptions
from wavalign.plugins.batch import Dialogue, RolloutGroup

_Z = 1.959963984540054
Told = tuple[float | None, float | None]
"""Of a group, the reward of the answer that was kept and the mean of all; None where no answer has a reward."""


@final
@dataclass(frozen=True, slots=True)
class BestOf:
    """Keeps of several answers to a prompt the best one."""

    n: int
    pool: RewardPool
    """Of the rewards that decide."""
    truncated: str
    """What answers are worth that were cut off, as in a step."""
    budget: float
    """Share of calls that may fail."""

    def draw(
        self, roller: Roller, policy: Policy, dialogues: Sequence[Dialogue], options: SamplingOptions
    ) -> tuple[list[RolloutGroup], list[Told]]:
        """The best of n answers to each dialogue, and what the rewards say of it.

        The first of the n is the answer that is drawn where there is one alone. Dialogues go through in parts, so that
        about as many answers are drawn together as there would be without.
        """
        kept, told = list[RolloutGroup](), list[Told]()
        for part in _parts(dialogues, self.n):
            # Every part has the same generator: draws depend on the dialogue and the place in its group.
            drawn = roller.sample(policy, part, replace(options, group_size=self.n), generator(0, "evaluation"))
            for group, (best, said) in zip(drawn, self._judged(roller, drawn), strict=True):
                kept.append(replace(group, rollouts=(group.rollouts[best],)))
                told.append(said)
        return kept, told

    def _judged(self, roller: Roller, groups: Sequence[RolloutGroup]) -> Iterator[tuple[int, Told]]:
        """Of every group the place of its best answer, the first of equal ones, and what the rewards say."""
        rewards = self.pool.rewards
        heard = roller.with_sound(groups) if any("waveform" in each.reward.needs for each in rewards) else list(groups)
        calls = {
            each.name: self.pool.score(each.name, shown_to(each.reward.needs, heard, roller.encoder))
            for each in rewards
        }
        scores = guarded(collect_scores(rewards, calls, (len(groups), self.n)), rewards)
        count = len(groups) * self.n
        check_budget(scores, rewards, scores.failed, calls=count, budget=self.budget)
        total = judge_truncated(scores, rewards, groups, self.truncated).total
        for row in total.tolist():
            known = [(value, -place) for place, value in enumerate(row) if not math.isnan(value)]
            value, place = max(known, default=(None, 0))  # of equal ones the first
            yield -place, (value, sum(each for each, _ in known) / len(known) if known else None)

    @property
    def by(self) -> str:
        """Which rewards decide, in words."""
        return ", ".join(f"`{each.name}`" for each in self.pool.rewards)

    def values(self, told: Sequence[Sequence[Any]]) -> dict[str, float]:
        """What is logged of all groups of a split: n, the mean reward of what was kept and of all that was drawn."""
        found: dict[str, float] = {"best_of": self.n}
        for index, name in enumerate(("best_of/kept", "best_of/all")):
            found |= _mean(name, [each[index] for each in told if each[index] is not None])
        return found | {"best_of/unscored": sum(each[0] is None for each in told)}

    @property
    def says(self) -> Mapping[str, str]:
        """What the values mean, in a sentence."""
        return {
            "best_of/kept": f"Mean reward by {self.by} of the answers that were kept as the best.",
            "best_of/all": f"Mean reward by {self.by} of all answers that they were chosen from.",
        }


def best_label(split: str, n: int) -> str:
    """What a split is called of which the best of `n` answers were measured."""
    return f"{split}.best_of_{n}"


def is_best_of(label: str, split: str) -> bool:
    """Whether `label` is what `split` is called for some n."""
    return label.startswith(f"{split}.best_of_")


def _parts(dialogues: Sequence[Dialogue], n: int) -> Iterator[Sequence[Dialogue]]:
    """The dialogues in `n` parts; together where an id comes twice, for draws tell such apart by their order."""
    twice = any(count > 1 for count in Counter(each.id for each in dialogues).values())
    size = len(dialogues) if twice else max(1, math.ceil(len(dialogues) / n))
    for start in range(0, len(dialogues), size or 1):
        yield dialogues[start : start + size]


def _mean(name: str, values: Sequence[float]) -> dict[str, float]:
    """A mean with its interval and count."""
    if not values:
        return {name: math.nan, f"{name}/low": math.nan, f"{name}/high": math.nan, f"{name}/count": 0}
    table = torch.tensor(values, dtype=torch.float64)
    half = _Z * float(table.std()) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    centre = float(table.mean())
    return {name: centre, f"{name}/low": centre - half, f"{name}/high": centre + half, f"{name}/count": len(values)}
