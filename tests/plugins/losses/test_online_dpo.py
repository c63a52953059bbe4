"""Online DPO against the formula in NumPy and against the loss on pairs, and in a step on any number of ranks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.distributed import run_ranks
from tests.engine.step.test_invariance import CHECKSUM, assert_equal
from tests.loss_inputs import loss_inputs
from tests.toy.compiled import Change, compiled, drop, problems, put
from tests.toy.live import train, train_rank
from wavalign.plugins.api import LossInputs
from wavalign.plugins.losses.dpo import DPO, DPOParams
from wavalign.plugins.losses.online_dpo import OnlineDPO, OnlineDPOParams

GROUPS, SIZE, LENGTH = 3, 4, 5
ORDER = torch.randperm(GROUPS * SIZE, generator=torch.Generator().manual_seed(5))
"""Rows of a micro-batch come in any order."""
REWARDS = torch.tensor([[2.0, 5.0, 1.0, 1.0], [3.0, 3.0, 3.0, 3.0], [4.0, 1.0, 4.0, 2.0]], dtype=torch.float64)
PAIRS = {"extremes": [(1, 2), None, (0, 1)], "random": [(1, 0), None, (0, 1)]}


def numbers() -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs of policy and reference and the mask, [B, 1, T], rows of a group one behind the other."""
    generator = torch.Generator().manual_seed(8)
    policy, reference = -2 * torch.rand(2, GROUPS * SIZE, 1, LENGTH, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([5, 3, 4, 1, 2, 2, 5, 3, 4, 2, 3, 1])
    return policy, reference, (torch.arange(LENGTH) < lengths[:, None])[:, None]


def inputs(policy: Tensor, reference: Tensor, mask: Tensor) -> LossInputs:
    group, member = torch.arange(GROUPS).repeat_interleave(SIZE), torch.arange(SIZE).repeat(GROUPS)
    return loss_inputs(
        policy[ORDER],
        mask=mask[ORDER],
        group=group[ORDER],
        member=member[ORDER],
        ref_logprobs=reference[ORDER],
        rewards=REWARDS.flatten()[ORDER].view(-1, 1, 1),
    )


@pytest.mark.parametrize("pair", ["extremes", "random"])
@pytest.mark.parametrize("per_token", [False, True])
def test_values_and_what_is_logged_as_in_numpy(pair: str, per_token: bool) -> None:
    policy, reference, mask = numbers()
    loss = OnlineDPO(OnlineDPOParams.model_validate({"pair": pair, "beta": 0.7, "length_normalized": per_token}))
    assert loss.needs == {"rewards", "ref_logprobs"}
    output = loss.compute(inputs(policy, reference, mask))
    gap = np.where(mask, policy - reference, 0.0).sum(axis=(1, 2))
    gap = (gap / mask.sum(dim=(1, 2)).numpy() if per_token else gap).reshape(GROUPS, SIZE)
    for p, chosen in enumerate(PAIRS[pair]):
        if chosen is None:
            assert output.values[p] == 0
            continue
        margin = 0.7 * (gap[p, chosen[0]] - gap[p, chosen[1]])
        assert output.values[p].item() == pytest.approx(np.log1p(np.exp(-margin)), rel=1e-12)
        assert output.metrics["margin"][p].item() == pytest.approx(margin, rel=1e-12)
        assert output.metrics["accuracy"][p] == (margin > 0)
    assert output.metrics["tied"].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    "options",
    [{}, {"variant": "ipo", "beta": 0.3}, {"variant": "hinge"}, {"variant": "robust", "label_smoothing": 0.1}],
)
def test_value_and_gradient_are_those_of_the_loss_on_pairs(options: dict[str, Any]) -> None:
    policy, reference, mask = numbers()
    policy.requires_grad_()
    ours = OnlineDPO(OnlineDPOParams.model_validate(options)).compute(inputs(policy, reference, mask)).values
    rows = [p * SIZE + member for p, pair in enumerate(PAIRS["extremes"]) if pair is not None for member in pair]
    given = loss_inputs(
        policy[rows],
        mask=mask[rows],
        group=torch.tensor([0, 0, 1, 1]),
        member=torch.tensor([0, 1, 0, 1]),
        ref_logprobs=reference[rows],
    )
    theirs = DPO(DPOParams.model_validate(options)).compute(given).values
    torch.testing.assert_close(ours[[0, 2]], theirs, rtol=1e-12, atol=1e-12)
    mine, other = (torch.autograd.grad(each.sum(), policy, retain_graph=True)[0] for each in (ours, theirs))
    torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)
    assert (mine[SIZE : 2 * SIZE] == 0).all(), "a tie teaches nothing"


def test_gradient_by_finite_differences() -> None:
    policy, reference, mask = numbers()
    loss = OnlineDPO(OnlineDPOParams(beta=0.4))
    assert torch.autograd.gradcheck(
        lambda scores: loss.compute(inputs(scores, reference, mask)).values, policy.requires_grad_()
    )


ONLINE: tuple[Change, ...] = (
    CHECKSUM,
    put("objective.terms", {"preference": {"loss": {"type": "online_dpo", "beta": 0.5}, "tokens": "text"}}),
    drop("objective.gate"),
    put("optim.epsilon", 1e-3),
    put("optim.learning_rate", 0.05),
)


def test_a_step_is_the_same_however_it_is_cut(tmp_path: Path) -> None:
    lines, _ = whole = train(compiled(tmp_path, *ONLINE))
    assert lines[0]["loss/preference"] > 0 and lines[0]["preference/tied"] < 1
    assert lines[1]["preference/margin"] != 0
    assert_equal(train(compiled(tmp_path, *ONLINE, put("batch.micro_batch", 5))), whole)
    two = compiled(tmp_path, *ONLINE, put("runtime.processes", 2))
    for found in run_ranks(train_rank, 2, two.to_json()):
        assert_equal(found, whole)


def test_groups_that_do_not_fit_and_groups_of_one_are_refused(tmp_path: Path) -> None:
    (small,) = problems(tmp_path, *ONLINE, put("batch.micro_batch", 3))
    assert "term `preference` keeps groups whole" in small.message
    (one,) = problems(tmp_path, *ONLINE, put("rollout.group_size", 1))
    assert "prefers one answer to another" in one.message
