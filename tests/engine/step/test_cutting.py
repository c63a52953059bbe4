"""Rows to micro-batches, by rows and by the tokens that the network is given."""

import random
from collections.abc import Sequence

import pytest
import torch

from tests.engine.step.test_batches import SPACE, sequence
from wavalign.engine.state.distributed import World
from wavalign.engine.step.batches import Row
from wavalign.engine.step.cutting import Cutter, Limits
from wavalign.engine.step.selection import Selection
from wavalign.plugins.batch import Role, concatenate
from wavalign.plugins.packing import PackingOptions

BOTH = PackingOptions(share=True, pack=True, pairs=1e9)


def row(group: int, member: int, *, prompt: int, answer: int, family: str = "rollouts") -> Row:
    """An answer that differs from every other one from its first token on."""
    begin = sequence(*([group] * prompt), role=Role.PROMPT)
    return Row(concatenate(begin, sequence(*([20 + member] * answer)), SPACE), family, group, member)


def some() -> list[Row]:
    """Four answers to each of three prompts, and six demonstrations of several lengths."""
    answers = [row(p, g, prompt=6 + p, answer=2 + g) for p in range(3) for g in range(4)]
    shown = [row(n, 0, prompt=3 + n, answer=4, family="demonstrations") for n in range(6)]
    return [*answers, *shown]


def cut(rows: Sequence[Row], limits: Limits, packing: PackingOptions | None = None) -> list[list[Row]]:
    cutter = Cutter(Selection((), SPACE, packing=packing), (), limits=limits, world=World.single("cpu"))
    made = cutter.cut(rows)
    assert [each.number for each in made] == list(range(len(made)))
    if limits.tokens is not None:
        assert all(each.forward_tokens <= limits.tokens or len(each.rows) == 1 for each in made)
    assert all(len(each.rows) <= limits.rows for each in made)
    assert sorted(row.key for each in made for row in each.rows) == sorted(row.key for row in rows)
    return [list(each.rows) for each in made]


def split(parts: Sequence[Sequence[Row]]) -> int:
    """How many groups of answers are in more than one part."""
    of = [{(each.family, each.group) for each in part} for part in parts]
    return sum(sum(("rollouts", group) in each for each in of) > 1 for group in range(3))


def test_groups_stay_together_where_they_fit_and_others_fill_up() -> None:
    parts = cut(some(), Limits(6, together=True), BOTH)
    assert len(parts) == 3
    assert split(parts) == 0
    assert split(cut(some(), Limits(6), BOTH)) > 0  # by length alone
    assert split(cut(some(), Limits(3, together=True), BOTH)) == 3  # none fits


def test_one_forward_keeps_the_order_of_rows() -> None:
    (part,) = cut(some(), Limits(18, together=True), BOTH)
    assert [each.key for each in part] == [each.key for each in some()]


@pytest.mark.parametrize("packing", [None, BOTH, PackingOptions(share=False, pack=True, pairs=1e9)])
@pytest.mark.parametrize("tokens", [1, 15, 26, 60, 200, 10_000])
def test_no_forward_has_more_tokens(packing: PackingOptions | None, tokens: int) -> None:
    rows = some()
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        cut(rows, Limits(18, tokens, together=packing is not None and packing.share), packing)
        cut(rows, Limits(4, tokens, together=packing is not None and packing.share), packing)


def test_shared_tokens_count_once() -> None:
    """Four answers of 2 to 5 to a prompt of 6: 6 + 14 tokens where the prompt is shared, 4 x 11 where it is not."""
    answers = some()[:4]
    assert len(cut(answers, Limits(4, 20, together=True), BOTH)) == 1
    assert len(cut(answers, Limits(4, 19, together=True), BOTH)) == 2
    assert len(cut(answers, Limits(4, 44))) == 1
    assert len(cut(answers, Limits(4, 43))) == 2


def test_a_row_beyond_the_budget_goes_alone() -> None:
    rows = [row(0, 0, prompt=30, answer=2), *some()[4:8]]
    parts = cut(rows, Limits(18, 25, together=True), BOTH)
    assert [len(part) for part in parts] == [1, 4]


def test_the_rows_of_a_batch_know_their_forward() -> None:
    (plain,) = Cutter(Selection((), SPACE), (), limits=Limits(18), world=World.single("cpu")).cut(some())
    assert plain.forward_tokens == plain.padded_tokens == 18 * 13
    selection = Selection((), SPACE, packing=BOTH)
    (close,) = Cutter(selection, (), limits=Limits(18, together=True), world=World.single("cpu")).cut(some())
    assert close.padded_tokens == 18 * 13
    needed = sum(6 + p + 14 for p in range(3)) + sum(3 + n + 4 for n in range(6))
    assert needed <= close.forward_tokens < needed + 22
    rows = some()
    assert selection.measure(rows)(rows) == close.forward_tokens
    assert selection.collate(some(), number=0, packs=False).tokens.packing is None


def test_tokens_of_heads_that_look_ahead_are_counted_with_what_is_repeated() -> None:
    ahead = some()[:4]
    ahead = [Row(concatenate(each.tokens, sequence(9, source=1), SPACE), "rollouts", 0, each.member) for each in ahead]
    batch = Selection((), SPACE, packing=BOTH).collate(ahead, number=0)
    assert batch.tokens.packing is not None
    assert batch.tokens.packing.options.ahead == 1
    assert batch.forward_tokens == 5 + 4 + 14 + 4  # the last of 6 tokens of the prompt stands before each answer
    assert torch.equal(batch.tokens.packing.positions[0, :5], torch.arange(5))
