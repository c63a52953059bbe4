"""A step's numbers against what its own rollouts and scores say."""

import math

import pytest
import torch

from tests.toy.compiled import compiled, put
from tests.toy.live import live_stage
from wavalign.engine.step.metrics import StepResult, nonzero, refuse_odd
from wavalign.engine.step.step import StepExecutor
from wavalign.errors import PluginError
from wavalign.plugins.api import Loss, LossInputs, LossOutput
from wavalign.plugins.batch import Role
from wavalign.schema.base import Params


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> StepResult:
    """One step with two rewards, one of which sometimes has no word."""
    plan = compiled(
        tmp_path_factory.mktemp("metrics"),
        put("rewards.sum", {"type": "toy_checksum", "scale": [1, 5], "weight": 3, "on_failure": "renormalize"}),
        put("rewards.exact", {"type": "toy_exact", "misbehave": "sometimes", "on_failure": "renormalize"}),
        put("batch.micro_batch", 3),
        put("optim.schedule", {"warmup_steps": 4}),
    )
    live = live_stage(plan)
    result = StepExecutor(live).step(1)
    live.close()
    return result


def values(step: StepResult) -> list[list[float]]:
    assert step.scores is not None
    rows: list[list[float]] = step.scores.total.tolist()
    return rows


def test_rewards(step: StepResult) -> None:
    present = [value for row in values(step) for value in row if not math.isnan(value)]
    mean = sum(present) / len(present)
    assert len(present) > 4
    assert step.metrics["reward"] == pytest.approx(mean)
    assert step.metrics["reward_std"] == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in present) / len(present)))
    assert step.scores is not None
    for name in ("sum", "exact"):
        part = [v for v in step.scores.parts[name].flatten().tolist() if not math.isnan(v)]
        assert step.metrics[f"reward/{name}"] == pytest.approx(sum(part) / len(part))
        assert step.metrics[f"reward/{name}/failed"] == 16 - len(part)


def test_the_total_is_a_weighted_mean(step: StepResult) -> None:
    """Sum 3, exact 1; the scale of the first is 1 to 5 over 0 to 6."""
    assert step.scores is not None
    for p, row in enumerate(values(step)):
        for g, total in enumerate(row):
            first, second = (step.scores.words[name][p][g].value for name in ("sum", "exact"))
            parts = [(3, 1 + first * 4 / 6)] if first is not None else []
            parts += [(1, second)] if second is not None else []
            expected = sum(w * v for w, v in parts) / sum(w for w, _ in parts) if parts else math.nan
            assert total == pytest.approx(expected, nan_ok=True)


def test_groups_without_spread(step: StepResult) -> None:
    """Groups none of whose answers has a reward are not counted at all."""
    spreads = []
    for row in values(step):
        present = [value for value in row if not math.isnan(value)]
        if present:
            spreads.append(max(present) - min(present))
    assert step.metrics["zero_variance_groups"] == pytest.approx(spreads.count(0) / len(spreads))


def test_lengths(step: StepResult) -> None:
    rollouts = [rollout for group in step.groups for rollout in group.rollouts]
    assert len(rollouts) == 16
    assert step.metrics["rollout_length"] == pytest.approx(sum(each.completion.length for each in rollouts) / 16)
    assert step.metrics["truncated"] == pytest.approx(sum(not each.answer.finished for each in rollouts) / 16)
    valid = ~torch.tensor(values(step)).isnan()
    valid &= valid.sum(1, keepdim=True) >= 2
    text = sum(
        int(torch.isin(rollout.completion.roles, torch.tensor([Role.TEXT, Role.TEXT_END])).sum())
        for p, group in enumerate(step.groups)
        for g, rollout in enumerate(group.rollouts)
        if valid[p, g]
    )
    assert step.metrics["tokens/rl"] == text


def test_the_rest(step: StepResult) -> None:
    line = step.metrics
    assert line["learning_rate"] == pytest.approx(0.003 * 2 / 4)
    assert line["step_seconds"] >= line["rollout_seconds"] + line["reward_seconds"] + line["learn_seconds"] - 1e-9
    assert line["tokens_per_second"] > 0
    assert {"gate/raw", "gate/direction", "gate/information", "rl/ratio", "kl/text"} <= set(line)
    assert not any(math.isnan(value) for value in line.values())


def test_advantages_made_of_rounding_are_none() -> None:
    assert nonzero(torch.tensor([[4e-12, -4e-12, 1e-3, 0.0]], dtype=torch.float64)) == 1


class Logging(Loss):
    """Of somebody's own."""

    family = "rollouts"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def compute(self, inputs: LossInputs) -> LossOutput:
        return LossOutput(inputs.logprobs)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_a_loss_logs_is_a_number_or_named(value: float) -> None:
    refuse_odd(Logging(Params()), "rl", {"rl/m": 1.0, "rl/none": math.nan, "tokens/rl": 0.0})
    with pytest.raises(PluginError, match=f"loss 'Logging': `m` is {value} over the step's tokens"):
        refuse_odd(Logging(Params()), "rl", {"rl/m": value, "tokens/rl": 3.0})
