"""Rows of a forward: what stands where, how they are cut, and that padding says nothing."""

import torch

from wavalign.engine.step.batches import (
    AnswerColumn,
    Column,
    CompletionColumn,
    MicroBatch,
    Row,
    RowColumn,
    collate_rows,
    cut_rows,
    with_columns,
)
from wavalign.engine.step.rows import answer_rows
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


def collated(rows: list[Row], size: int = 99, *columns: Column) -> list[MicroBatch]:
    parts = cut_rows(rows, size)
    named = {f"column {number}": each for number, each in enumerate(columns)}
    return [with_columns(collate_rows(part, SPACE, number=n), named) for n, part in enumerate(parts)]


def answers(*groups: RolloutGroup, space: TokenSpace = SPACE, temperatures: tuple[float, ...] = (0.7,)) -> list[Row]:
    return answer_rows(groups, space, family="rollouts", temperatures=temperatures)


def old(*groups: RolloutGroup) -> CompletionColumn:
    return CompletionColumn("rollouts", [[each.logprobs for each in group.rollouts] for group in groups])


def gold(tokens: TokenSequence, group: int = 0, member: int = 0, family: str = "demonstrations") -> Row:
    return Row(tokens, family, group, member)


def test_a_rollout_stands_behind_its_prompt() -> None:
    groups = (group(3, rollout(1, 2)), group(1, rollout(3, 4, 5, 6)))
    rows = answers(*groups)
    assert [row.key for row in rows] == [("rollouts", 0, 0), ("rollouts", 1, 0)]
    (made,) = collated(rows, 99, old(*groups))
    assert made.tokens.ids[:, 0].tolist() == [[7, 7, 7, 1, 2], [7, 3, 4, 5, 6]]
    assert made.tokens.sources[:, 0].tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 1, 1]]
    assert made.columns["column 0"][:, 0].tolist() == [[0, 0, 0, -1, -2], [0, -1, -2, -3, -4]]
    assert made.support is None


def test_padding() -> None:
    groups = (group(1, rollout(1)),)
    (made,) = collated([*answers(*groups), gold(sequence(1, 2, 3, 4))], 99, old(*groups))
    assert made.tokens.ids[0, 0].tolist() == [7, 1, 49, 49]
    assert made.tokens.roles[0, 0].tolist() == [Role.PROMPT, Role.TEXT, Role.PAD, Role.PAD]
    assert made.tokens.lengths.tolist() == [2, 4]
    assert made.columns["column 0"][0, 0].tolist() == [0, -1, 0, 0]
    assert made.columns["column 0"][1].abs().sum() == 0


def test_support_of_different_widths_and_rows_without() -> None:
    rows = answers(group(2, rollout(1, 2, support=[[1, 5, 6], [2, -1, -1]]), rollout(3, support=[[3]])))
    (made,) = collated([*rows, gold(sequence(4, 4))])
    assert made.support is not None
    assert made.support.dtype == torch.int32
    nothing = [-1, -1, -1]
    assert made.support[:, 0].tolist() == [
        [nothing, nothing, [1, 5, 6], [2, -1, -1]],
        [nothing, nothing, [3, -1, -1], nothing],
        [nothing] * 4,
    ]


def test_demonstrations_have_temperature_one() -> None:
    (made,) = collated([*answers(group(1, rollout(1), rollout(2))), gold(sequence(1, 2))])
    assert made.sampled.tolist() == [True, True, False]
    torch.testing.assert_close(made.temperature, torch.tensor([[0.7], [0.7], [1.0]]))


def test_every_stream_has_its_temperature() -> None:
    two = TokenSpace(50, 49, ("text", "audio"), (HeadSpec("text", 0), HeadSpec("audio", 1)), 4)
    tokens = TokenSequence(torch.ones(2, 3, dtype=torch.int64), torch.full((2, 3), int(Role.TEXT), dtype=torch.int8))
    said = Rollout(tokens, torch.zeros(2, 3), Answer("", (), True))
    rows = answers(RolloutGroup(Dialogue("d", ()), tokens, (said,)), space=two, temperatures=(1.0, 0.8))
    made = collate_rows([*rows, gold(tokens)], two, number=0)
    torch.testing.assert_close(made.temperature, torch.tensor([[1.0, 0.8], [1.0, 1.0]]))


def test_cutting_keeps_every_row_once_and_similar_lengths_together() -> None:
    rows = [gold(sequence(*[1] * length), length) for length in (9, 2, 7, 1, 8, 3, 5)]
    made = collated(rows, 3)
    assert [each.tokens.lengths.tolist() for each in made] == [[1, 2, 3], [5, 7, 8], [9]]
    assert [row for each in made for row in each.rows] == sorted(rows, key=lambda row: row.tokens.length)
    (whole,) = collated(rows, 7)
    assert list(whole.rows) == rows


def test_groups_that_stay_whole_are_never_cut() -> None:
    """Pairs of lengths (3, 4), (1, 9) and (2, 2) beside single rows: a pair is as long as its longer half."""
    pairs = [
        gold(sequence(*[1] * length), group, member, "pairs")
        for group, lengths in enumerate(((3, 4), (1, 9), (2, 2)))
        for member, length in enumerate(lengths)
    ]
    single = [gold(sequence(*[1] * length), length) for length in (1, 5)]
    parts = cut_rows([*pairs, *single], 3, frozenset({"pairs"}))
    assert [[row.tokens.length for row in part] for part in parts] == [[1, 2, 2], [3, 4, 5], [1, 9]]
    for part in parts:
        groups = [row.group for row in part if row.family == "pairs"]
        assert all(groups.count(group) == 2 for group in groups)
    (alone, *_) = cut_rows(pairs, 1, frozenset({"pairs"}))
    assert [row.group for row in alone] == [2, 2]  # larger than a micro-batch, and still whole


def test_columns_of_a_number_a_row_and_of_a_number_a_token() -> None:
    table, valid = torch.tensor([[0.5, -2.0]], dtype=torch.float64), torch.tensor([[True, False]])
    rows = [*answers(group(1, rollout(1), rollout(2, 3))), gold(sequence(4, 4))]
    scored = {rows[0].key: torch.tensor([[1.0, 2.0]]), rows[2].key: torch.tensor([[5.0, 6.0]])}
    (made,) = collated(rows, 99, AnswerColumn("rollouts", table, valid), RowColumn(scored))
    assert made.columns["column 0"].shape == (3, 1, 1)
    assert made.columns["column 0"].flatten().tolist() == [0.5, 0, 0]
    assert made.present["column 0"].tolist() == [True, False, False]
    assert made.columns["column 1"][:, 0].tolist() == [[1, 2, 0], [0, 0, 0], [5, 6, 0]]
    assert made.present["column 1"].tolist() == [True, False, True]
