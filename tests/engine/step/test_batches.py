"""Rows of a forward: what stands where, how they are cut, and that padding says nothing."""

import torch

from wavalign.engine.step.batches import MicroBatch, Row, micro_batches, rollout_rows
from wavalign.plugins.batch import (
    Answer,
    Dialogue,
    HeadSpec,
    Role,
    Rollout,
    RolloutGroup,
    TokenSequence,
    TokenSpace,
)

SPACE = TokenSpace(
    vocabulary_size=50, pad=49, streams=("mix",), heads=(HeadSpec("main", 0), HeadSpec("two", 0, 2)), num_codes=4
)
CPU = torch.device("cpu")


def sequence(*ids: int, role: Role = Role.TEXT, source: int | None = None) -> TokenSequence:
    tokens = torch.tensor([ids])
    sources = None if source is None else torch.full(tokens.shape, source, dtype=torch.int8)
    return TokenSequence(tokens, torch.full(tokens.shape, int(role), dtype=torch.int8), sources)


def rollout(*ids: int, support: list[list[int]] | None = None) -> Rollout:
    logprobs = -torch.arange(1.0, len(ids) + 1)[None]
    cut = None if support is None else torch.tensor([support], dtype=torch.int32)
    return Rollout(sequence(*ids, source=1), logprobs, Answer("", (), True), cut)


def group(prompt: int, *rollouts: Rollout) -> RolloutGroup:
    return RolloutGroup(Dialogue("d", ()), sequence(*[7] * prompt, role=Role.PROMPT), rollouts)


def batch(rows: list[Row], size: int = 99, temperature: float = 0.7) -> list[MicroBatch]:
    return micro_batches(rows, size, space=SPACE, temperatures=[temperature], device=CPU)


def test_a_rollout_stands_behind_its_prompt() -> None:
    rows = rollout_rows([group(3, rollout(1, 2)), group(1, rollout(3, 4, 5, 6))], SPACE)
    assert [row.place for row in rows] == [(0, 0), (1, 0)]
    (made,) = batch(rows)
    assert made.tokens.ids[:, 0].tolist() == [[7, 7, 7, 1, 2], [7, 3, 4, 5, 6]]
    assert made.tokens.sources[:, 0].tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 1, 1]]
    assert made.old_logprobs[:, 0].tolist() == [[0, 0, 0, -1, -2], [0, -1, -2, -3, -4]]
    assert made.support is None


def test_padding() -> None:
    rows = [*rollout_rows([group(1, rollout(1))], SPACE), Row(sequence(1, 2, 3, 4), None)]
    (made,) = batch(rows)
    assert made.tokens.ids[0, 0].tolist() == [7, 1, 49, 49]
    assert made.tokens.roles[0, 0].tolist() == [Role.PROMPT, Role.TEXT, Role.PAD, Role.PAD]
    assert made.tokens.lengths.tolist() == [2, 4]
    assert made.old_logprobs[0, 0].tolist() == [0, -1, 0, 0]
    assert made.old_logprobs[1].abs().sum() == 0


def test_support_of_different_widths_and_rows_without() -> None:
    rows = rollout_rows([group(2, rollout(1, 2, support=[[1, 5, 6], [2, -1, -1]]), rollout(3, support=[[3]]))], SPACE)
    (made,) = batch([*rows, Row(sequence(4, 4), None)])
    assert made.support is not None
    assert made.support.dtype == torch.int64
    nothing = [-1, -1, -1]
    assert made.support[:, 0].tolist() == [
        [nothing, nothing, [1, 5, 6], [2, -1, -1]],
        [nothing, nothing, [3, -1, -1], nothing],
        [nothing] * 4,
    ]


def test_demonstrations_have_temperature_one() -> None:
    (made,) = batch([*rollout_rows([group(1, rollout(1), rollout(2))], SPACE), Row(sequence(1, 2), None)])
    assert made.is_rollout.tolist() == [True, True, False]
    torch.testing.assert_close(made.temperature, torch.tensor([[0.7], [0.7], [1.0]]))


def test_every_stream_has_its_temperature() -> None:
    two = TokenSpace(50, 49, ("text", "audio"), (HeadSpec("text", 0), HeadSpec("audio", 1)), 4)
    tokens = TokenSequence(torch.ones(2, 3, dtype=torch.int64), torch.full((2, 3), int(Role.TEXT), dtype=torch.int8))
    said = Rollout(tokens, torch.zeros(2, 3), Answer("", (), True))
    rows = [*rollout_rows([RolloutGroup(Dialogue("d", ()), tokens, (said,))], two), Row(tokens, None)]
    (made,) = micro_batches(rows, 9, space=two, temperatures=[1.0, 0.8], device=CPU)
    torch.testing.assert_close(made.temperature, torch.tensor([[1.0, 0.8], [1.0, 1.0]]))


def test_cutting_keeps_every_row_once_and_similar_lengths_together() -> None:
    rows = [Row(sequence(*[1] * length), None) for length in (9, 2, 7, 1, 8, 3, 5)]
    made = batch(rows, 3)
    assert [each.tokens.lengths.tolist() for each in made] == [[1, 2, 3], [5, 7, 8], [9]]
    assert [row for each in made for row in each.rows] == sorted(rows, key=lambda row: row.tokens.length)
    (whole,) = batch(rows, 7)
    assert list(whole.rows) == rows
