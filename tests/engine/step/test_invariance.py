"""How a step is cut, into micro-batches or over processes, changes nothing that is learned or logged."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.distributed import run_ranks
from tests.toy.compiled import Change, compiled, only_stage, put
from tests.toy.live import live_stage, train, train_rank
from wavalign.engine.compile.plan import Plan
from wavalign.engine.step.step import StepExecutor
from wavalign.plugins.batch import TEXT_ROLES

Run = tuple[list[dict[str, float]], dict[str, Tensor]]

CHECKSUM = put("rewards.sum", {"type": "toy_checksum", "scale": [1, 5]})
MIXED: tuple[Change, ...] = (
    # Every aggregation, both units, a reference on either kind of row, a reward that is sometimes missing.
    put("rewards.exact", {"type": "toy_exact", "on_failure": "renormalize", "misbehave": "sometimes"}),
    CHECKSUM,
    put("objective.gate.max_variance", 0.5),
    put("objective.gate.threshold", 1),
    put("objective.terms.rl.loss", {"type": "grpo", "kl": {"coefficient": {"text": 0.1, "audio": 0.05}}}),
    put("objective.terms.rl.tokens", "all"),
    put("objective.terms.sft.aggregation", "sequence"),
    put("objective.terms.own", {"loss": "toy_sequence", "tokens": "text", "share": 0.5}),
    put("objective.terms.pull", {"loss": "toy_gold_kl", "weight": 0.3, "aggregation": "sum"}),
    put("objective.terms.fixed", {"loss": "toy_sharpen", "tokens": {"text": 1, "audio": 0.5}, "aggregation": "fixed"}),
    put("rollout.top_p", 0.95),
    put("optim.epsilon", 1e-3),  # Adam would blow rounding of vanishing gradients up to full steps
    put("optim.learning_rate", 0.05),
)


def plan(folder: Path, *changes: Change) -> Plan:
    return compiled(folder, *MIXED, *changes)


@functools.cache
def whole_step(folder: Path) -> Run:
    """Three steps in one piece."""
    return train(plan(folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("invariance")


def assert_equal(found: Run, wanted: Run) -> None:
    for step, (ours, theirs) in enumerate(zip(found[0], wanted[0], strict=True)):
        assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
        for key, value in theirs.items():
            assert ours[key] == pytest.approx(value, rel=1e-5, abs=1e-6), f"{key} of step {step + 1}"
    for name, weights in wanted[1].items():
        # Steps move weights by 1e-2; rounding, other on every processor, comes to 2e-6 after three of them.
        torch.testing.assert_close(found[1][name], weights, rtol=0, atol=1e-5, msg=name)


def test_the_steps_do_something(folder: Path) -> None:
    """Otherwise the comparisons below would hold of nothing."""
    lines, weights = whole_step(folder)
    untouched = dict(live_stage(plan(folder)).backend.policy.named_parameters())
    moved = max(float((weights[name] - each.detach()).abs().max()) for name, each in untouched.items())
    assert moved > 1e-2
    assert {f"loss/{name}" for name in ("rl", "rl.kl_text", "rl.kl_audio", "sft", "own", "pull", "fixed")} <= set(
        lines[0]
    )
    assert all(line["grad_norm"] > 0 for line in lines)
    assert all(line[f"loss/{name}"] != 0 for line in lines for name in ("sft", "own", "fixed"))
    # Of answers that are of one length the advantages sum to zero, as in the second step.
    assert all(abs(lines[step]["loss/rl"]) > 1e-3 for step in (0, 2))
    assert lines[2]["loss/pull"] > 1e-4
    assert lines[2]["loss/rl.kl_audio"] > 1e-4
    assert sum(line["reward/exact/failed"] for line in lines) > 0
    assert all(line["own/longest"] > line["own/length"] > 1 for line in lines)


@pytest.mark.parametrize("rows", [1, 3])
def test_micro_batches(folder: Path, rows: int) -> None:
    assert_equal(train(plan(folder, put("batch.micro_batch", rows))), whole_step(folder))


def test_two_processes(folder: Path) -> None:
    two = plan(folder, put("runtime.processes", 2), put("batch.micro_batch", 4))
    assert only_stage(two).geometry is not None
    first, second = run_ranks(train_rank, 2, two.to_json())
    assert_equal(first, whole_step(folder))
    assert_equal(second, whole_step(folder))


def test_the_loss_is_the_sum_of_its_terms(folder: Path) -> None:
    """share x weight x term, read back from the log."""
    weights = {"rl": 1.0, "rl.kl_text": 0.1, "rl.kl_audio": 0.05, "sft": 1.0, "own": 1.0, "pull": 0.3, "fixed": 1.0}
    for line in whole_step(folder)[0]:
        expected = sum(line[f"share/{name}"] * weight * line[f"loss/{name}"] for name, weight in weights.items())
        assert line["loss"] == pytest.approx(expected, rel=1e-5)
        assert line["share/rl"] == line["gate"]
        assert line["share/sft"] == pytest.approx(1 - line["gate"])
        assert line["share/own"] == 0.5


def test_a_sequence_loss_is_divided_by_sequences(tmp_path: Path) -> None:
    """Mean over answers of -A mean log pi, by hand from the executor's own rows."""
    only = put("objective.terms", {"own": {"loss": "toy_sequence", "tokens": "text"}})
    live = live_stage(compiled(tmp_path, only, CHECKSUM))
    result = StepExecutor(live).step(0)
    live.close()
    assert result.advantages is not None
    assert result.scores is not None
    values, lengths = [], []
    rewarded = ~result.scores.total.isnan()
    assert not rewarded.all()  # rows without a reward count nowhere
    for p, group in enumerate(result.groups):
        for g, rollout in enumerate(group.rollouts):
            advantage = float(result.advantages[p, g])
            text = torch.isin(rollout.completion.roles, torch.tensor(TEXT_ROLES))
            if text.any() and rewarded[p, g]:
                # On-policy: what was recorded while sampling is what the first forward pass gives.
                values.append(-advantage * float(rollout.logprobs[text].mean()))
                lengths.append(int(text.sum()))
    assert len(values) > 8
    assert max(abs(value) for value in values) > 0.1
    assert result.metrics["tokens/own"] == len(values)
    assert result.metrics["loss/own"] == pytest.approx(sum(values) / len(values), rel=1e-4, abs=1e-5)
    assert result.metrics["own/length"] == pytest.approx(sum(lengths) / len(lengths))
    assert result.metrics["own/longest"] == max(lengths)


def test_kl_is_logged_only_where_the_reference_was_asked(tmp_path: Path) -> None:
    """A pull on sound alone leaves the reference silent about text; its log-probs there are no numbers to read."""
    changes: tuple[Any, ...] = (
        put("objective.terms.rl.loss", {"type": "grpo", "kl": {"coefficient": {"audio": 0.1}}}),
        put("objective.terms.sft.weight", 0),
        put("objective.terms.rl.share", 1),
    )
    (line, *_), _ = train(compiled(tmp_path, *changes), steps=1)
    assert "kl/text" not in line
    assert line["kl/audio"] == pytest.approx(0, abs=1e-6)  # the policy still is the reference


@pytest.mark.parametrize("clip", [0.2, None])
def test_the_first_ratio_is_one(tmp_path: Path, clip: float | None) -> None:
    """Behaviour log-probs and those of the first forward pass are of one distribution, top-p and temperature too."""
    changes = (
        put("rollout.top_p", 0.8),
        put("rollout.temperature", 0.7),
        put("objective.terms.rl.loss.clip", clip),
    )
    (line, *_), _ = train(compiled(tmp_path, *changes), steps=1)
    assert line["rl/ratio"] == pytest.approx(1, abs=1e-5)
    assert line["rl/kl_to_old"] == pytest.approx(0, abs=1e-6)
    assert 0 <= line["rl/max_log_ratio"] < 1e-4
    clipped = {key: value for key, value in line.items() if key.startswith("rl/clip")}
    assert clipped == ({} if clip is None else {"rl/clip_low": 0, "rl/clip_high": 0})
    assert line["kl/text"] == pytest.approx(0, abs=1e-6)
