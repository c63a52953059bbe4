"""What openings of the engine are for, as a plugin file: pairs, a regressed reward, a provider that lags behind."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, final

import torch

from wavalign.plugins.api import (
    Advantage,
    AdvantageInputs,
    AdvantageOutput,
    DataSource,
    Loss,
    LossInputs,
    LossOutput,
    Policy,
    Provider,
    Reward,
    SamplingOptions,
)
from wavalign.plugins.batch import Dialogue, Message, Rollout, RolloutGroup, Scored

WORDS = ("zero", "one", "two", "three", "four", "five")


@final
class Pairs(DataSource):
    """Sums modulo six with a right and a wrong answer."""

    type = "toy_pairs"

    def prepare(self, progress: Callable[[str, int, int], None]) -> None:
        """Nothing to build."""

    def __len__(self) -> int:
        return 36

    def record(self, index: int) -> Dialogue:
        """Sum number `index`; the chosen answer comes first."""
        a, b = divmod(index, 6)
        right, wrong = WORDS[(a + b) % 6], WORDS[(a + b + 1 + index % 5) % 6]
        targets = (Message("assistant", f"it is {right}"), Message("assistant", wrong))
        return Dialogue(f"pair-{a}-{b}", (Message("user", f"{WORDS[a]} plus {WORDS[b]}"),), targets=targets)


@final
class Pairwise(Loss):
    """-log sigmoid(margin), with the margin of the pair's log-ratios to the reference: DPO at beta 1. [groups]."""

    type = "toy_pairwise"
    family = "pairs"
    unit = "group"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"ref_logprobs"})

    def compute(self, inputs: LossInputs) -> LossOutput:
        """One value a pair."""
        ratio = torch.where(inputs.mask, inputs.logprobs - inputs.column("ref_logprobs"), 0.0).sum(dim=(1, 2))
        sign = torch.where(inputs.member == 0, 1.0, -1.0)
        margin = torch.zeros(inputs.groups).index_add(0, inputs.group, ratio * sign)
        return LossOutput(-torch.nn.functional.logsigmoid(margin), {"margin": margin.detach()})


@final
class RegressReward(Loss):
    """(v - R)^2 / 2 of the scalar output `row_values` and the answer's reward. [B]."""

    type = "toy_regress"
    family = "rollouts"
    unit = "sequence"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"row_values", "rewards"})

    def compute(self, inputs: LossInputs) -> LossOutput:
        """One value an answer."""
        values, rewards = inputs.column("row_values"), inputs.column("rewards").flatten()
        return LossOutput((values - rewards).square() / 2, {"value": values.detach(), "reward": rewards})


@final
class RegressReturn(Loss):
    """(v_t - r)^2 / 2 of the scalar output `values` and what an operator of a test's own gives. [B, S, T]."""

    type = "toy_regress_return"
    family = "rollouts"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"values", "toy_returns"})

    def compute(self, inputs: LossInputs) -> LossOutput:
        """One value a token."""
        gap = inputs.column("values")[:, None, :] - inputs.column("toy_returns")
        return LossOutput((gap.square() / 2).expand_as(inputs.logprobs))


@final
class Baseline(Advantage):
    """Better than what answers were worth so far: A = R - b, with b a running mean of the rewards of all steps."""

    type = "toy_baseline"

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self._mean, self._count = 0.0, 0

    def compute(self, inputs: AdvantageInputs) -> AdvantageOutput:
        """Of each answer that has a reward."""
        rewards = inputs.rewards
        valid = ~rewards.isnan()
        advantages = torch.where(valid, rewards - self._mean, 0.0)
        self._count += 1
        self._mean += (float(rewards[valid].mean()) - self._mean) / self._count
        return AdvantageOutput(advantages, valid)

    def state_dict(self) -> dict[str, Any]:
        """The mean and what it is of."""
        return {"mean": self._mean, "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict()`."""
        self._mean, self._count = float(state["mean"]), int(state["count"])


@final
class OneBehind(Provider):
    """Samples with the weights that were published one step earlier."""

    type = "toy_one_behind"
    own_network = False

    def __init__(self, params: Any, *, sample: Any) -> None:
        super().__init__(params, sample=sample)
        self._kept: list[tuple[Policy, int]] = []

    def publish(self, policy: Policy, *, version: int) -> None:
        """Keep a copy, and of the earlier ones the newest."""
        self._kept = [*self._kept[-1:], (copy.deepcopy(policy), version)]

    def submit(self, prompts: Sequence[Dialogue], options: SamplingOptions, generator: torch.Generator) -> None:
        """Sampled when they are collected."""
        self._asked = (prompts, options, generator)

    def collect(self) -> list[RolloutGroup]:
        """Answers of the earlier weights; of the first ones where there are no earlier ones."""
        policy, version = self._kept[0]
        return [
            replace(group, rollouts=tuple(replace(rollout, version=version) for rollout in group.rollouts))
            for group in self.sample(policy, *self._asked)
        ]


@final
class Parity(Reward):
    """Whether the letters of an answer add up to an odd number: two answers agree about as often as not."""

    type = "toy_parity"
    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        """0 or 1."""
        return Scored(float(sum(map(ord, rollout.answer.text)) % 2))
