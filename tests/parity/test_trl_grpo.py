"""Our policy loss and aggregates against the loss that TRL computes from the same log-probabilities."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from trl.kernels.chunked_logprob import ChunkedLogProbFunction
from trl.trainer.grpo_trainer import GRPOTrainer

from tests.engine.step.test_objective import Aggregation, spec
from tests.loss_inputs import loss_inputs
from wavalign.engine.models.scored_policy import selected_logprobs
from wavalign.engine.step.objective import combine, count, metric_sums, term_loss
from wavalign.plugins.losses.grpo import GRPO, GRPOParams
from wavalign.plugins.losses.kl import KL, KLParams
from wavalign.plugins.ops import RatioLevel

ROWS, LENGTH, BETA, LOW, HIGH = 6, 9, 0.04, 0.2, 0.3
AGGREGATIONS: list[tuple[Aggregation, str]] = [
    ("sequence", "grpo"), ("token", "bnpo"), ("token", "dapo"), ("fixed", "dr_grpo"), ("sum", "luspo"),
]  # fmt: skip
CISPO_CAP = 1.1
"""Largest ratio that counts: low enough that some of the numbers are above."""


def numbers() -> dict[str, Tensor]:
    """Log-probabilities of three policies, some of them further apart than the clip allows, advantages and a mask."""
    generator = torch.Generator().manual_seed(9)
    policy = -3 * torch.rand(ROWS, LENGTH, generator=generator, dtype=torch.float64)
    old, reference = policy + 0.4 * torch.randn(2, ROWS, LENGTH, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([9, 4, 1, 7, 2, 5])
    mask = torch.arange(LENGTH) < lengths[:, None]
    advantages = torch.tensor([1.3, -0.7, 0.2, -1.5, 0.9, -0.1], dtype=torch.float64)
    return {"policy": policy, "old": old, "reference": reference, "mask": mask, "advantages": advantages}


def their_loss(
    given: dict[str, Tensor],
    loss_type: str,
    level: RatioLevel,
    *,
    unbiased_kl: bool = False,
    delta: float | None = None,
) -> tuple[Tensor, dict[str, list[float]]]:
    """TRL's loss, with the model taken out: its log-probabilities are the given ones."""
    entropies = torch.zeros(ROWS, LENGTH)
    metrics: dict[str, dict[str, list[float]]] = {"train": defaultdict(list)}
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (given["policy"], entropies, None),
        _metrics=metrics,
        _entropy_bonus_enabled=False,
        accelerator=SimpleNamespace(gather=lambda value: value, reduce=lambda value, reduction: value, num_processes=1),
        args=SimpleNamespace(
            use_bias_correction_kl=unbiased_kl,
            delta=delta,
            steps_per_generation=1,
            sapo_temperature_pos=1.0,
            sapo_temperature_neg=1.05,
        ),
        aux_loss_enabled=False,
        beta=BETA,
        current_gradient_accumulation_steps=1,
        epsilon_high=CISPO_CAP if loss_type == "cispo" else HIGH,
        epsilon_low=LOW,
        importance_sampling_level=level,
        loss_type=loss_type,
        max_completion_length=LENGTH,
        model=SimpleNamespace(training=True),
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=False,
    )
    ids, mask = torch.zeros(ROWS, LENGTH, dtype=torch.int64), given["mask"].long()
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": torch.ones_like(ids),
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": given["advantages"],
        "old_per_token_logps": given["old"],
        "ref_per_token_logps": given["reference"],
        "num_items_in_batch": mask.sum(),
    }
    return GRPOTrainer._compute_loss(trainer, None, inputs), metrics["train"]  # type: ignore[no-untyped-call,arg-type]


def our_loss(
    given: dict[str, Tensor], aggregation: Aggregation, level: RatioLevel, *, unbiased_kl: bool = False, **options: Any
) -> tuple[Tensor, dict[str, float]]:
    pull = {"coefficient": BETA, "estimator": "k3", "unbiased": unbiased_kl}
    loss = GRPO(GRPOParams.model_validate({"clip": [LOW, HIGH], "ratio": level, "kl": pull, **options}))
    mask = given["mask"][:, None]
    inputs = loss_inputs(
        given["policy"][:, None],
        old_logprobs=given["old"][:, None],
        ref_logprobs=given["reference"][:, None],
        advantages=given["advantages"].view(-1, 1, 1),
        mask=mask,
    )
    (brought,) = loss.regularizers()
    output = loss.compute(inputs)
    values = {"rl": output.values, "kl": KL(KLParams.model_validate(brought.params)).compute(inputs).values}
    length = LENGTH if aggregation == "fixed" else None
    specs = [
        spec(aggregation, name, weight=weight).model_copy(update={"fixed_length": length})
        for name, weight in (("rl", 1.0), ("kl", BETA))
    ]
    weights, valid = mask.float(), torch.ones(ROWS, dtype=torch.bool)
    denominators = count(weights, valid)
    losses = {
        each.name: term_loss(each, values[each.name], weights=weights, row_valid=valid, denominators=denominators)
        for each in specs
    }
    sums = metric_sums({**output.metrics, "kl": values["kl"]}, weights=weights, row_valid=valid)
    means = {name: float(total / denominators[0]) for name, total in sums.items()}
    return combine(losses, specs, gate=None, backend_divisor=1), means


def assert_same(ours: Tensor, theirs: Tensor, policy: Tensor) -> None:
    """Value and gradient."""
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(ours, policy), torch.autograd.grad(theirs, policy), rtol=1e-11, atol=1e-13
    )


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(("aggregation", "loss_type"), AGGREGATIONS)
def test_loss_gradient_and_metrics(aggregation: Aggregation, loss_type: str, level: RatioLevel) -> None:
    given = numbers()
    policy = given["policy"].requires_grad_()
    theirs, their_metrics = their_loss(given, loss_type, level)
    ours, our_metrics = our_loss(given, aggregation, level)
    assert_same(ours, theirs, policy)
    assert our_metrics["kl"] == pytest.approx(their_metrics["kl"][0], rel=1e-9)
    if level == "token":  # with one ratio a sequence TRL averages over sequences, we still over tokens
        assert our_metrics["clip_low"] == pytest.approx(their_metrics["clip_ratio/low_mean"][0])
        assert our_metrics["clip_high"] == pytest.approx(their_metrics["clip_ratio/high_mean"][0])
        assert our_metrics["clip_low"] > 0
        assert our_metrics["clip_high"] > 0


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_cispo(level: RatioLevel) -> None:
    """Theirs has no lower bound, and its upper one is a ratio where ours is a width above 1."""
    given = numbers()
    policy = given["policy"].requires_grad_()
    theirs, their_metrics = their_loss(given, "cispo", level)
    ours, our_metrics = our_loss(given, "token", level, surrogate="cispo", clip=[None, CISPO_CAP - 1])
    assert_same(ours, theirs, policy)
    assert our_metrics["clip_high"] > their_metrics["cispo_clip_ratio"][0] > 0  # theirs counts A > 0 alone
    assert our_metrics["clip_low"] == 0


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_divergence_weighed_by_the_ratio(level: RatioLevel) -> None:
    given = numbers()
    policy = given["policy"].requires_grad_()
    theirs, their_metrics = their_loss(given, "grpo", level, unbiased_kl=True)
    ours, our_metrics = our_loss(given, "sequence", level, unbiased_kl=True)
    assert_same(ours, theirs, policy)
    assert our_metrics["kl"] == pytest.approx(their_metrics["kl"][0], rel=1e-9)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_the_dual_clip_is_their_cap_above_the_upper_bound(level: RatioLevel) -> None:
    given = numbers()
    given["policy"] = given["old"] + 2 * (given["policy"] - given["old"])  # some ratios above the cap
    policy = given["policy"].requires_grad_()
    theirs, _ = their_loss(given, "grpo", level, delta=1.5)
    ours, metrics = our_loss(given, "sequence", level, dual_clip=1.5)
    assert_same(ours, theirs, policy)
    if level == "token":
        assert metrics["clip_dual"] > 0


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_fused_logprobs(temperature: float) -> None:
    generator = torch.Generator().manual_seed(10)
    hidden = torch.randn(13, 6, generator=generator).requires_grad_()
    weight = torch.randn(301, 6, generator=generator).requires_grad_()
    targets = torch.randint(301, (13,), generator=generator)
    outputs: Any = ChunkedLogProbFunction.apply(  # type: ignore[no-untyped-call]
        hidden, weight, None, targets, temperature, 64, None, 1.0, ("log_probs", "entropy")
    )
    ours, entropy = selected_logprobs(hidden, weight, targets, temperature=temperature, with_entropy=True)
    torch.testing.assert_close(ours, outputs[0])
    torch.testing.assert_close(entropy, outputs[1].detach())
    pull = torch.linspace(-1, 1, 13)
    for mine, theirs in zip(
        torch.autograd.grad((ours * pull).sum(), [hidden, weight]),
        torch.autograd.grad((outputs[0] * pull).sum(), [hidden, weight]),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
