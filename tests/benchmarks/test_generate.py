"""The benchmark of sampling: that its contenders do the same work, and what its bound counts."""

import pytest
import torch

from benchmarks.generate import Contest, Point, compare, known_bandwidth, not_won

VOCABULARY = 2048


@pytest.fixture(scope="module")
def contest() -> Contest:
    return Contest("T", VOCABULARY, device="cpu", dtype=torch.float32)


def test_prompts_are_of_one_length_and_different(contest: Contest) -> None:
    prompts = contest.prompts(5, 30)
    assert {prompt.length for _, prompt in prompts} == {30}
    assert len({tuple(prompt.ids[0].tolist()) for _, prompt in prompts}) == 5


def test_greedy_answers_are_the_same_ids(contest: Contest) -> None:
    prompts = contest.prompts(6, 24)
    ours, theirs = contest.ours(prompts, 20, greedy=True), contest.generate(prompts, 20, greedy=True)
    assert ours.shape == (6, 20)
    assert torch.equal(ours, theirs)
    assert len(set(ours.flatten().tolist())) > 40


def test_no_id_ends_an_answer(contest: Contest) -> None:
    """A vocabulary of 2,048 draws one of the two ends about every thousandth time."""
    prompts = contest.prompts(32, 24)
    for found in (contest.ours(prompts, 80), contest.generate(prompts, 80), contest.alone(prompts[:2], 80)):
        assert found.shape[1] == 80


def test_the_bound_counts_weights_once_and_keys_and_values_of_every_row(contest: Contest) -> None:
    """T: 2 layers, width 64, 2 of 4 heads cached, 176 wide inside; biases on queries, keys and values."""
    layer = 64 * 64 * 2 + 2 * (32 * 64) + 64 + 2 * 32 + 3 * 64 * 176 + 2 * 64
    weights = VOCABULARY * 64 + 2 * layer + 64
    assert contest.traffic(Point("T", VOCABULARY, 8, 48, 64)) == 4 * (weights + 8 * (48 + 32) * 2 * (2 * 32))


def test_a_comparison_in_half_precision() -> None:
    half = Contest("T", VOCABULARY, device="cpu", dtype=torch.bfloat16)
    point = Point("T", VOCABULARY, 2, 24, 4)
    row = compare(half, point, 1)
    assert all(row[name] > 0 for name in ("ours", "generate", "alone"))
    whole = Contest("T", VOCABULARY, device="cpu", dtype=torch.float32)
    assert 2 * half.traffic(point) == whole.traffic(point)


@pytest.mark.parametrize(
    ("name", "expected"), [("NVIDIA H200", 4800), ("NVIDIA H100 80GB HBM3", 3350), ("Some Card", None)]
)
def test_bandwidth_is_known_or_not_made_up(monkeypatch: pytest.MonkeyPatch, name: str, expected: int | None) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert known_bandwidth("cuda") == expected
    assert known_bandwidth("cpu") is None


def test_ties_and_losses_are_named() -> None:
    """By processor time ours takes 10 against 9, 10.2 and 20; by the clock it is ahead everywhere but once."""
    cases = ((1, 9.0, 10.0), (8, 10.2, 110.0), (64, 20.0, 10.0))
    rows = [
        {
            "network": "T",
            "vocabulary": 2048,
            "rows": count,
            "ours": 100.0,
            "generate": 50.0,
            "alone": rate,
            "cpu": {"ours": 10.0, "generate": busy, "alone": 20.0},
        }
        for count, busy, rate in cases
    ]
    assert not_won(rows, busy=True) == [
        "- LOSS: T, 2,048, 1 rows: 0.90 to generate",
        "- tie: T, 2,048, 8 rows: 1.02 to generate",
    ]
    assert not_won(rows, busy=False) == ["- LOSS: T, 2,048, 8 rows: 0.91 to alone"]
