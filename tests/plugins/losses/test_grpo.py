"""The policy loss by hand, by finite differences, and what comes along with it."""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from tests.loss_inputs import loss_inputs
from wavalign.errors import PluginError
from wavalign.plugins.api import Regularizer
from wavalign.plugins.losses.grpo import GRPO, GRPOParams


def grpo(**options: Any) -> GRPO:
    return GRPO(GRPOParams.model_validate(options))


def row(*values: float) -> Tensor:
    return torch.tensor([[list(values)]], dtype=torch.float64)


RATIOS = (1.5, 1.5, 0.5, 0.5, 1.1, 1.1)
ADVANTAGES = (1.0, -1.0, 1.0, -1.0, 2.0, -1.0)
INPUTS = loss_inputs(
    row(*(math.log(ratio) - 2 for ratio in RATIOS)), old_logprobs=row(*[-2.0] * 6), advantages=row(*ADVANTAGES)
)


def test_clipped_values_and_metrics_by_hand() -> None:
    output = grpo(clip=[0.2, 0.3]).compute(INPUTS)
    torch.testing.assert_close(output.values, row(-1.3, 1.5, -0.5, 0.8, -2.2, 1.1))
    torch.testing.assert_close(output.metrics["ratio"], row(*RATIOS))
    assert output.metrics["clip_low"].flatten().tolist() == [0, 0, 0, 1, 0, 0]
    assert output.metrics["clip_high"].flatten().tolist() == [1, 0, 0, 0, 0, 0]
    torch.testing.assert_close(output.maxima["max_log_ratio"], row(*(abs(math.log(ratio)) for ratio in RATIOS)))
    torch.testing.assert_close(output.metrics["kl_to_old"], row(*(ratio - 1 - math.log(ratio) for ratio in RATIOS)))


def test_cispo_weighs_every_token_and_leaves_none_without_a_gradient() -> None:
    """-min(r, cap) A log pi, and of the gradient no part goes through the ratio."""
    logprobs = INPUTS.logprobs.clone().requires_grad_()
    given = loss_inputs(logprobs, old_logprobs=INPUTS.column("old_logprobs"), advantages=row(*ADVANTAGES))
    bounded = {
        (None, 0.3): (1.3, 1.3, 0.5, 0.5, 1.1, 1.1),
        (0.2, 0.3): (1.3, 1.3, 0.8, 0.8, 1.1, 1.1),
        (0.2, None): (1.5, 1.5, 0.8, 0.8, 1.1, 1.1),
        None: RATIOS,
    }
    for clip, weights in bounded.items():
        output = grpo(surrogate="cispo", clip=clip).compute(given)
        wanted = -row(*weights) * row(*ADVANTAGES)
        torch.testing.assert_close(output.values, wanted * logprobs)
        torch.testing.assert_close(torch.autograd.grad(output.values.sum(), logprobs)[0], wanted)
    output = grpo(surrogate="cispo", clip=[0.2, 0.3]).compute(given)
    assert output.metrics["clip_high"].flatten().tolist() == [1, 1, 0, 0, 0, 0]
    assert output.metrics["clip_low"].flatten().tolist() == [0, 0, 1, 1, 0, 0]


def test_a_dual_clip_bounds_what_a_bad_answer_can_cost() -> None:
    """Only where the advantage is negative, and from there on without a gradient."""
    logprobs = INPUTS.logprobs.clone().requires_grad_()
    given = loss_inputs(logprobs, old_logprobs=INPUTS.column("old_logprobs"), advantages=row(*ADVANTAGES))
    output = grpo(clip=[0.2, 0.3], dual_clip=1.4).compute(given)
    torch.testing.assert_close(output.values, row(-1.3, 1.4, -0.5, 0.8, -2.2, 1.1))
    assert output.metrics["clip_dual"].flatten().tolist() == [0, 1, 0, 0, 0, 0]
    (gradient,) = torch.autograd.grad(output.values.sum(), logprobs)
    torch.testing.assert_close(gradient, row(0.0, 0.0, -0.5, 0.0, -2.2, 1.1))


def test_a_side_without_a_bound_is_not_clipped() -> None:
    torch.testing.assert_close(grpo(clip=[None, 0.3]).compute(INPUTS).values, row(-1.3, 1.5, -0.5, 0.5, -2.2, 1.1))
    torch.testing.assert_close(grpo(clip=[0.2, None]).compute(INPUTS).values, row(-1.5, 1.5, -0.5, 0.8, -2.2, 1.1))


def test_one_width_serves_both_sides() -> None:
    torch.testing.assert_close(grpo(clip=0.2).compute(INPUTS).values, row(-1.2, 1.5, -0.5, 0.8, -2.2, 1.1))
    torch.testing.assert_close(grpo().compute(INPUTS).values, row(-1.2, 1.5, -0.5, 0.8, -2.2, 1.1))


def test_without_a_clip_the_value_is_minus_the_advantage_and_so_is_the_gradient() -> None:
    loss = grpo(clip=None)
    logprobs = INPUTS.logprobs.clone().requires_grad_()
    output = loss.compute(
        loss_inputs(logprobs, old_logprobs=INPUTS.column("old_logprobs"), advantages=row(*ADVANTAGES))
    )
    values = output.values
    torch.testing.assert_close(values, -row(*ADVANTAGES))
    (gradient,) = torch.autograd.grad(values.sum(), logprobs)
    torch.testing.assert_close(gradient, -row(*ADVANTAGES))
    assert loss.needs == {"advantages", "old_logprobs"}, "for the log"
    torch.testing.assert_close(output.metrics["ratio"], row(*RATIOS))
    torch.testing.assert_close(output.maxima["max_log_ratio"], row(*(abs(math.log(ratio)) for ratio in RATIOS)))


def test_gradient_stops_where_the_clip_holds_and_is_exact_elsewhere() -> None:
    logprobs = INPUTS.logprobs.clone().requires_grad_()
    old, advantages = INPUTS.column("old_logprobs"), INPUTS.column("advantages")

    def values(scores: Tensor) -> Tensor:
        return grpo(clip=0.2).compute(loss_inputs(scores, old_logprobs=old, advantages=advantages)).values

    (gradient,) = torch.autograd.grad(values(logprobs).sum(), logprobs)
    torch.testing.assert_close(gradient, row(0.0, 1.5, -0.5, 0.0, -2.2, 1.1))
    assert torch.autograd.gradcheck(values, logprobs)


def test_sequence_ratio_is_the_geometric_mean_over_the_mask() -> None:
    mask = torch.tensor([[[True, True, False, False, True, False]]])
    mean = (1.5 * 1.5 * 1.1) ** (1 / 3)
    loss = grpo(clip=0.2, ratio="sequence")
    assert loss.needs == {"advantages", "old_logprobs"}
    ones = loss_inputs(
        INPUTS.logprobs, old_logprobs=INPUTS.column("old_logprobs"), advantages=-torch.ones(1, 1, 1), mask=mask
    )
    output = loss.compute(ones)
    torch.testing.assert_close(output.values, torch.full((1, 1, 6), mean, dtype=torch.float64))
    assert output.metrics["clip_high"].sum() == 0  # a negative advantage is never clipped from above


def test_sequence_ratio_gradient_by_finite_differences() -> None:
    mask = torch.tensor([[[True, True, False, True]], [[True, False, False, False]]])
    generator = torch.Generator().manual_seed(2)
    policy, old = -torch.rand(2, 2, 1, 4, dtype=torch.float64, generator=generator)
    advantages = torch.tensor([-1.0, 2.0], dtype=torch.float64).view(2, 1, 1)

    def values(scores: Tensor) -> Tensor:
        given = loss_inputs(scores, old_logprobs=old, advantages=advantages, mask=mask)
        return grpo(clip=0.9, ratio="sequence").compute(given).values

    assert torch.autograd.gradcheck(values, policy.clone().requires_grad_())


def test_a_number_pulls_over_the_terms_own_tokens() -> None:
    (pull,) = grpo(kl={"coefficient": 0.04, "estimator": "k2"}).regularizers()
    assert pull == Regularizer("kl", "kl", {"estimator": "k2"}, tokens=None, weight=0.04)
    (pull,) = grpo(ratio="sequence", kl={"coefficient": 0.04, "unbiased": True}).regularizers()
    assert pull.params == {"estimator": "k3", "unbiased": True, "ratio": "sequence"}


def test_kinds_pull_over_their_own_tokens_whatever_the_mask() -> None:
    pulls = grpo(kl={"coefficient": {"text": 0.01, "audio": 0.02}}).regularizers()
    assert pulls == (
        Regularizer("kl_text", "kl", {"estimator": "k3"}, tokens={"text": 1.0}, weight=0.01),
        Regularizer("kl_audio", "kl", {"estimator": "k3"}, tokens={"audio": 1.0}, weight=0.02),
    )


@pytest.mark.parametrize("coefficient", [0, 0.0, {}, {"text": 0}])
def test_no_pull_brings_no_term_and_needs_no_reference(coefficient: object) -> None:
    loss = grpo(kl={"coefficient": coefficient})
    assert loss.regularizers() == ()
    assert "ref_logprobs" not in loss.needs


@pytest.mark.parametrize(
    "options",
    [
        {"clip": 0},
        {"clip": 1.0},
        {"clip": [0.2]},
        {"clip": [0.2, 0]},
        {"ratio": "word"},
        {"surrogate": "cispo", "dual_clip": 3},
        {"clip": None, "dual_clip": 3},
        {"clip": [0.2, 0.5], "dual_clip": 1.5},
        {"dual_clip": 1.0},
        {"kl": {"coefficient": -0.1}},
        {"kl": {"coefficient": {"speech": 0.1}}},
        {"clipping": 0.2},
    ],
)
def test_nonsense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GRPOParams.model_validate(options)


def test_missing_inputs_are_named() -> None:
    with pytest.raises(PluginError, match="old_logprobs"):
        grpo().compute(loss_inputs(row(-1.0), advantages=row(1.0)))
    with pytest.raises(PluginError, match="advantages"):
        grpo().compute(loss_inputs(row(-1.0), old_logprobs=row(-1.0)))
