"""Our offline preference losses against TRL's own code on the same log-probs: value, gradient, and what is logged."""

import pytest

from benchmarks.parity.losses import CASES, Compared, Shared, trl_dpo, trl_kto

IN_FLOAT32 = ("orpo",)
"""Losses that TRL computes in float32 whatever it is given."""


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient(name: str) -> None:
    found = Compared(name)
    tight = name not in IN_FLOAT32
    assert found.value < (1e-12 if tight else 1e-6)
    assert found.gradient < (1e-12 if tight else 1e-6)
    assert float(found.their_gradient.abs().max()) > 1e-3, "a gradient to compare"


def test_metrics_of_pairs() -> None:
    ours, (_, theirs) = Compared("dpo sigmoid").metrics, trl_dpo(Shared(), "sigmoid", beta=0.3)
    names = {"margin": "rewards/margins", "accuracy": "rewards/accuracies", "chosen_reward": "rewards/chosen"}
    names |= {"rejected_reward": "rewards/rejected", "chosen_logprob": "logps/chosen"}
    names |= {"rejected_logprob": "logps/rejected"}
    for mine, other in names.items():
        assert ours[mine] == pytest.approx(theirs[other], rel=1e-6), mine
    assert ours["chosen_drift"] == pytest.approx(theirs["rewards/chosen"] / 0.3, rel=1e-9)
    assert ours["rejected_drift"] == pytest.approx(theirs["rewards/rejected"] / 0.3, rel=1e-9)
    assert 0 < ours["accuracy"] < 1


def test_the_reference_point() -> None:
    ours, (_, theirs) = Compared("kto").metrics, trl_kto(Shared(), beta=0.3, desirable=1.2, undesirable=0.8)
    assert ours["reference_point"] == pytest.approx(theirs["kl"], rel=1e-9)
    assert ours["reference_point"] > 0.5
    assert ours["desirable"] == 0.5
    assert ours["reward"] == pytest.approx((theirs["rewards/chosen"] + theirs["rewards/rejected"]) / 2, rel=1e-9)
