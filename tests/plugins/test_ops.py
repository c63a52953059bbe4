"""Shared formulas, by hand."""

import math

import pytest
import torch

from wavalign.plugins.ops import PADDED, Segments, clamped_ratio, kl_estimate

PACKED = Segments(torch.tensor([[[0, 0, 1, 1, 1, 2]]]), 3)
"""Rows of 2, 3 and 1 tokens one behind the other."""


def test_sums_of_packed_rows_are_those_of_padded_ones() -> None:
    packed = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]], dtype=torch.float64)
    padded = torch.tensor([[[1.0, 2, 0]], [[3.0, 4, 5]], [[6.0, 0, 0]]], dtype=torch.float64)
    assert PACKED.sum(packed).tolist() == PADDED.sum(padded).tolist() == [3, 12, 6]
    mask = torch.tensor([[[True, False, True, True, False, False]]])
    assert PACKED.mean(packed, mask).tolist() == [1, 3.5, 0]
    rows = torch.tensor([1.0, -1.0, 2.0])
    assert PACKED.spread(rows, packed).flatten().tolist() == [1, 1, -1, -1, -1, 2]
    assert PADDED.spread(rows, padded).shape == (3, 1, 1)
    assert PADDED.sum(rows) is rows
    assert PADDED.spread(rows, rows) is rows


def test_masked_mean_is_per_sequence_and_zero_without_tokens() -> None:
    values = torch.tensor([[[1.0, 2.0, 9.0]], [[5.0, 6.0, 7.0]]])
    mask = torch.tensor([[[True, True, False]], [[False, False, False]]])
    assert PADDED.mean(values, mask).tolist() == [1.5, 0.0]


def test_masked_mean_ignores_what_is_not_a_number_outside_the_mask() -> None:
    values = torch.tensor([[[2.0, float("nan")]]])
    assert PADDED.mean(values, torch.tensor([[[True, False]]])).tolist() == [2.0]


def test_kl_estimates_by_hand() -> None:
    logprobs, reference = torch.tensor([-1.0], dtype=torch.float64), torch.tensor([-1.5], dtype=torch.float64)
    assert kl_estimate(logprobs, reference, "k1").item() == pytest.approx(0.5)
    assert kl_estimate(logprobs, reference, "k2").item() == pytest.approx(0.125)
    assert kl_estimate(logprobs, reference, "k3").item() == pytest.approx(math.exp(-0.5) + 0.5 - 1)


def test_k1_and_k3_average_to_the_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.randn(2, 7, generator=generator, dtype=torch.float64).log_softmax(dim=1)
    exact = (policy.exp() * (policy - reference)).sum()
    for estimator in ("k1", "k3"):
        expected = (policy.exp() * kl_estimate(policy, reference, estimator)).sum()
        assert expected.item() == pytest.approx(exact.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.2, 0.3, [0.8, 1.1, 1.3]),
        (None, 0.3, [0.5, 1.1, 1.3]),
        (0.2, None, [0.8, 1.1, 1.6]),
        (None, None, [0.5, 1.1, 1.6]),
    ],
)
def test_ratios_stay_within_their_bounds(low: float | None, high: float | None, expected: list[float]) -> None:
    torch.testing.assert_close(clamped_ratio(torch.tensor([0.5, 1.1, 1.6]), low, high), torch.tensor(expected))
