"""The pairwise reward loss: by hand in NumPy, against TRL's trainer, by finite differences."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from trl.trainer.reward_trainer import RewardTrainer

from tests.loss_inputs import loss_inputs
from wavalign.plugins.api import LossInputs
from wavalign.plugins.losses.bradley_terry import BradleyTerry, BradleyTerryParams

PAIRS, LENGTH = 5, 6


def drawn() -> tuple[Tensor, Tensor]:
    """Numbers of a head at every token and one a row, of ten rows."""
    generator = torch.Generator().manual_seed(4)
    values = torch.randn(2 * PAIRS, LENGTH, generator=generator, dtype=torch.float64)
    return values, torch.randn(2 * PAIRS, generator=generator, dtype=torch.float64)


def inputs(**columns: Tensor) -> LossInputs:
    """Rejected rows before the chosen ones, groups out of order, two streams, and masks of different lengths."""
    member = torch.tensor([1] * PAIRS + [0] * PAIRS)
    group = torch.tensor([2, 0, 1, 4, 3, 0, 1, 2, 3, 4])
    mask = torch.zeros(2 * PAIRS, 2, LENGTH, dtype=torch.bool)
    for row in range(2 * PAIRS):
        mask[row, 0, 1 : 2 + row % 3] = True
        mask[row, 1, 3 : 4 + row % 2] = True
    logprobs = torch.zeros(2 * PAIRS, 2, LENGTH, dtype=torch.float64)
    return loss_inputs(logprobs, mask=mask, group=group, member=member, **columns)


def by_hand(rewards: np.ndarray, given: LossInputs, *, margin: float = 0.0, center: float = 0.0) -> np.ndarray:
    """One value a pair."""
    found = []
    for pair in range(PAIRS):
        rows = {int(given.member[row]): rewards[row] for row in range(len(rewards)) if given.group[row] == pair}
        gap = rows[0] - rows[1] - margin
        found.append(np.log1p(np.exp(-gap)) + center * (rows[0] + rows[1]) ** 2)
    return np.array(found)


@pytest.mark.parametrize(("margin", "center"), [(0.0, 0.0), (0.7, 0.0), (0.0, 0.3), (1.1, 0.2)])
def test_values_of_the_last_position(margin: float, center: float) -> None:
    loss = BradleyTerry(BradleyTerryParams(margin=margin, center=center))
    assert loss.needs == {"row_values"}
    given = inputs(row_values=drawn()[1])
    wanted = by_hand(drawn()[1].numpy(), given, margin=margin, center=center)
    np.testing.assert_allclose(loss.compute(given).values.numpy(), wanted, rtol=1e-12)


def test_values_of_the_mean_over_the_terms_tokens() -> None:
    """A position counts once, in however many streams the term selects it."""
    loss = BradleyTerry(BradleyTerryParams(pooling="mean"))
    assert loss.needs == {"values"}
    values, given = drawn()[0], inputs(values=drawn()[0])
    rewards = np.array(
        [np.mean([float(values[row, t]) for t in range(LENGTH) if given.mask[row, :, t].any()]) for row in range(10)]
    )
    output = loss.compute(given)
    np.testing.assert_allclose(output.values.numpy(), by_hand(rewards, given), rtol=1e-12)
    chosen = np.array([rewards[5], rewards[6], rewards[7], rewards[8], rewards[9]])
    rejected = np.array([rewards[1], rewards[2], rewards[0], rewards[4], rewards[3]])
    np.testing.assert_allclose(output.metrics["margin"].numpy(), chosen - rejected, rtol=1e-12)
    np.testing.assert_allclose(output.metrics["chosen_reward"].numpy(), chosen, rtol=1e-12)
    np.testing.assert_array_equal(output.metrics["accuracy"].numpy(), (chosen > rejected).astype(float))


@pytest.mark.parametrize(("margin", "center"), [(0.0, 0.0), (0.4, 0.0), (0.0, 0.25), (0.4, 0.25)])
def test_value_and_gradient_equal_those_of_trl(margin: float, center: float) -> None:
    rewards = drawn()[1]
    ours = rewards.clone().requires_grad_()
    loss = BradleyTerry(BradleyTerryParams(margin=margin, center=center))
    mean = loss.compute(inputs(row_values=ours)).values.mean()
    mean.backward()

    theirs = rewards.clone().requires_grad_()
    given = inputs()
    place = {(int(g), int(m)): row for row, (g, m) in enumerate(zip(given.group, given.member, strict=True))}
    order = [place[pair, member] for member in (0, 1) for pair in range(PAIRS)]
    wanted = their_loss(theirs[order], margin=margin, center=center)
    wanted.backward()
    torch.testing.assert_close(mean, wanted, rtol=1e-10, atol=0)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-15)


def their_loss(rewards: Tensor, *, margin: float, center: float) -> Tensor:
    """TRL's, the model taken out: its logits are `rewards`, the chosen ones first."""
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False),
        args=SimpleNamespace(center_rewards_coefficient=center or None),
        accelerator=SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x),
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
    )
    batch: dict[str, Any] = {"margin": torch.full((PAIRS,), margin, dtype=torch.float64)} if margin else {}
    theirs: Any = RewardTrainer
    loss: Tensor = theirs.compute_loss(trainer, lambda **_: SimpleNamespace(logits=rewards[:, None]), batch)
    return loss


def test_the_data_may_say_how_much_better_a_side_is() -> None:
    loss = BradleyTerry(BradleyTerryParams(margin=0.1, scores=0.5))
    assert loss.needs == {"row_values", "target_scores"}
    rewards = drawn()[1]
    stated = torch.arange(10, dtype=torch.float64).view(-1, 1, 1)
    given = inputs(row_values=rewards, target_scores=stated)
    wanted = by_hand((rewards - 0.5 * stated.flatten()).numpy(), given, margin=0.1)
    np.testing.assert_allclose(loss.compute(given).values.numpy(), wanted, rtol=1e-12)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_gradients_by_finite_differences(pooling: str) -> None:
    loss = BradleyTerry(BradleyTerryParams.model_validate({"pooling": pooling, "margin": 0.2, "center": 0.1}))
    (name,) = loss.needs
    column = drawn()[0] if pooling == "mean" else drawn()[1]

    def values(given: Tensor) -> Tensor:
        return loss.compute(inputs(**{name: given})).values

    assert torch.autograd.gradcheck(values, column.clone().requires_grad_())


def test_a_facet_has_a_head_of_its_own() -> None:
    loss = BradleyTerry(BradleyTerryParams(head="rhythm"))
    assert loss.needs == {"rhythm"}
    assert loss.scalars == {"rhythm": "sequence"}
    assert BradleyTerry(BradleyTerryParams(head="rhythm", pooling="mean")).scalars == {"rhythm": "token"}
    assert BradleyTerry(BradleyTerryParams()).scalars == {}
    given = inputs(rhythm=drawn()[1])
    np.testing.assert_allclose(loss.compute(given).values.numpy(), by_hand(drawn()[1].numpy(), given), rtol=1e-12)
