"""Gates with a value for each prompt and gates that read noise: in the plan, in the loss, and however a step is cut."""

import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.distributed import run_ranks
from tests.engine.run.test_trainer import assert_resumes
from tests.engine.step.test_invariance import MIXED, Run, assert_equal
from tests.toy.compiled import Change, compiled, graph, only_stage, problems, put
from tests.toy.live import live_stage, train, train_rank
from wavalign.engine.compile.plan import Plan
from wavalign.engine.step.step import StepExecutor
from wavalign.plugins.batch import TEXT_ROLES

TOYS = Path(__file__).parents[2] / "toy"
PLUGINS = put("plugins", [str(TOYS / name) for name in ("plugins.py", "openings.py", "unsure.py")])
UNSURE = put("rewards.sure", {"type": "toy_unsure", "scale": [1, 5], "weight": 6})
OPTIONS = {"subtract_noise": True, "zero_variance": "leave_out", "per_prompt": True, "max_variance": 3.0}
GATE = put("objective.gate", {"type": "rollout_adaptive", "threshold": 2.5, "ema": 0.5, **OPTIONS})
Numbers = npt.NDArray[np.float64]
EACH = {"type": "toy_each", "values": [0.1, 0.7, 0.0, 0.4]}


def plan(folder: Path, *changes: Change) -> Plan:
    slowly = put("optim.learning_rate", 0.02)  # three steps on, rounding is that of the first
    return compiled(folder, *MIXED, PLUGINS, UNSURE, GATE, slowly, *changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gates")


@functools.cache
def whole_step(folder: Path) -> Run:
    """Three steps in one piece."""
    return train(plan(folder))


def test_the_steps_tell_prompts_apart(folder: Path) -> None:
    """Otherwise the comparisons below would hold of nothing."""
    lines = whole_step(folder)[0]
    assert all(line["gate/highest"] - line["gate/lowest"] > 0.1 and 0.05 < line["gate"] < 0.95 for line in lines)
    assert all(line["gate/noise"] > 0 and 0 < line["gate/unstated"] < 1 for line in lines)
    assert all(line["gate/variance"] < line["gate/observed_variance"] for line in lines)
    assert all(line["share/rl"] == line["gate"] == pytest.approx(1 - line["share/sft"]) for line in lines)


@pytest.mark.parametrize("rows", [1, 3])
def test_micro_batches(folder: Path, rows: int) -> None:
    assert_equal(train(plan(folder, put("batch.micro_batch", rows))), whole_step(folder))


def test_two_processes(folder: Path) -> None:
    two = plan(folder, put("runtime.processes", 2), put("batch.micro_batch", 4))
    first, second = run_ranks(train_rank, 2, two.to_json())
    assert_equal(first, whole_step(folder))
    assert_equal(second, whole_step(folder))


def by_hand(total: Numbers, noise: Numbers) -> Numbers:
    """First readings of a gate with the options above: [P] of `total` and `noise` [P, G]."""
    raw = np.full(len(total), np.nan)
    for p, (rewards, errors) in enumerate(zip(total, noise, strict=True)):
        here = ~np.isnan(rewards)
        rewards, errors = rewards[here], np.nan_to_num(errors[here])
        if len(rewards) and rewards.max() > rewards.min():
            n = len(rewards)
            variance = max(0.0, rewards.var() - (n - 1) / n * errors.mean())
            if variance:
                raw[p] = 0.8 / (1 + np.exp(-5 * (rewards.max() - 2.5))) * min(1.0, variance / 3.0)
    mean = np.nanmean(raw)
    found: Numbers = np.where(np.isnan(raw), mean, np.minimum(raw, 1.0))
    return found


def test_each_answer_counts_by_the_share_of_its_prompt(tmp_path: Path) -> None:
    """sum over prompts of lambda_p sum of -A mean log pi, over all answers; by hand from the executor's own rows."""
    only = put("objective.terms", {"own": {"loss": "toy_sequence", "tokens": "text", "share": "gate"}})
    live = live_stage(compiled(tmp_path, PLUGINS, put("rewards", {}), UNSURE, GATE, only))
    result = StepExecutor(live).step(0)
    live.close()
    assert result.advantages is not None and result.scores is not None
    own = by_hand(result.scores.total.numpy(), result.scores.noise.numpy())
    assert own.max() - own.min() > 0.1
    values = np.full(result.advantages.shape, np.nan)
    for p, group in enumerate(result.groups):
        for g, rollout in enumerate(group.rollouts):
            text = torch.isin(rollout.completion.roles, torch.tensor(TEXT_ROLES))
            if text.any():
                values[p, g] = -float(result.advantages[p, g]) * float(rollout.logprobs[text].mean())
    assert result.metrics["tokens/own"] == (~np.isnan(values)).sum() > 8
    assert result.metrics["loss"] == pytest.approx(np.nanmean(own[:, None] * values), rel=1e-4, abs=1e-6)
    assert result.metrics["loss/own"] == pytest.approx(np.nanmean(values), rel=1e-4, abs=1e-6)
    assert result.metrics["gate"] == pytest.approx(own.mean(), abs=1e-9)


@pytest.mark.parametrize("loss", ["grpo", "toy_sequence", "online_dpo"])
def test_equal_values_are_one_value(tmp_path: Path, loss: str) -> None:
    term = put("objective.terms.rl", {"loss": loss, "tokens": "text", "share": "gate"})
    gates = ({**EACH, "values": [0.3] * 4, "own": own} for own in (True, False))
    one, other = (train(compiled(tmp_path, PLUGINS, UNSURE, term, put("objective.gate", gate))) for gate in gates)
    assert_equal(one, other)


@pytest.mark.parametrize("loss", ["grpo", "online_dpo"])
def test_the_values_of_others_are_told_apart(tmp_path: Path, loss: str) -> None:
    """Of groups, too: those of a pairwise loss, cut in several ways."""
    term = put("objective.terms.rl", {"loss": loss, "tokens": "text", "share": "1 - gate"})
    common = (PLUGINS, UNSURE, term, put("objective.gate", EACH), put("optim.epsilon", 1e-3))
    whole = train(compiled(tmp_path, *common))
    assert_equal(train(compiled(tmp_path, *common, put("batch.micro_batch", 4))), whole)
    mean = train(compiled(tmp_path, *common, put("objective.gate.own", False)))
    assert whole[0][2]["loss"] != pytest.approx(mean[0][2]["loss"], abs=1e-4)


@pytest.mark.parametrize("loss", ["grpo", "online_dpo"])
def test_one_less_each_value_is_the_other_share(tmp_path: Path, loss: str) -> None:
    def trained(share: str, values: list[float]) -> Run:
        term = put("objective.terms", {"rl": {"loss": loss, "tokens": "text", "share": share}})
        gate = put("objective.gate", {**EACH, "values": values})
        lines, weights = train(compiled(tmp_path, PLUGINS, UNSURE, term, gate))
        return [{k: v for k, v in line.items() if k != "gate"} for line in lines], weights

    assert_equal(trained("gate", [0.1, 0.7, 0.0, 0.4]), trained("1 - gate", [0.9, 0.3, 1.0, 0.6]))


@pytest.mark.parametrize(
    "change",
    [put("batch.mini_batches", 2), put("rollout.ahead", 1), put("rollout.resample", {"limit": 1})],
    ids=["several updates", "ahead", "resampled"],
)
def test_however_a_step_goes_it_may_be_cut(tmp_path: Path, change: Change) -> None:
    assert_equal(train(plan(tmp_path, change, put("batch.micro_batch", 4))), train(plan(tmp_path, change)))


def test_noise_is_in_the_graph_where_a_gate_asks_for_it(tmp_path: Path) -> None:
    found = graph(tmp_path, PLUGINS, UNSURE, GATE)
    (gate,) = (each for each in found.operators if each.function == "gate")
    assert gate.needs == ("rewards", "reward_noise") and set(gate.gives) == {"gate", "prompt_gates"}
    (batches,) = (each for each in found.operators if each.function == "micro_batches")
    assert "prompt_gates" in batches.needs
    plain = graph(tmp_path, PLUGINS, UNSURE, put("objective.gate", {"type": "rollout_adaptive"}))
    assert not plain.gives("reward_noise") and not plain.gives("prompt_gates")


def test_values_of_prompts_that_nobody_follows_are_refused(tmp_path: Path) -> None:
    assert only_stage(plan(tmp_path)).graph.gives("prompt_gates")
    alone = put("objective.terms.rl.share", 0.5)
    (found,) = problems(tmp_path, PLUGINS, UNSURE, GATE, alone)
    assert "has a value for each prompt, and no term on answers to prompts follows it" in found.message
    assert not only_stage(compiled(tmp_path, PLUGINS, UNSURE, alone)).graph.gives("prompt_gates")


def test_a_resume_goes_on_with_the_same_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_resumes(tmp_path, PLUGINS, UNSURE, GATE, monkeypatch=monkeypatch)
