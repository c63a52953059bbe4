"""Rows from which nothing can be learned: which they are, and that loss and gradients are the same without them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine.step.test_objective import spec
from tests.plugins.architectures.vita_helpers import small_vita
from wavalign.engine.compile.plan import TermPlan
from wavalign.engine.models.scored_policy import score_batch
from wavalign.engine.step.batches import AnswerColumn, Column, MicroBatch, Row, RowColumn
from wavalign.engine.step.objective import count
from wavalign.engine.step.selection import Selection
from wavalign.engine.step.teaching import muted, sorted_by_signal
from wavalign.engine.step.terms import LiveTerm, term_value
from wavalign.plugins.api import Loss
from wavalign.plugins.batch import Role, TokenSequence
from wavalign.plugins.losses.cross_entropy import CrossEntropy, CrossEntropyParams
from wavalign.plugins.losses.grpo import GRPO, GRPOParams
from wavalign.plugins.masks.roles import Roles, RolesParams

NEEDS = ("advantages", "old_logprobs")


def term(plan: TermPlan, loss: Loss) -> LiveTerm:
    return LiveTerm(plan, loss, Roles(RolesParams(text=1.0)))


def grpo(aggregation: Any = "token", **options: Any) -> LiveTerm:
    plan = spec(aggregation, "rl", needs=NEEDS, signal="advantages", **options)
    return term(plan, GRPO(GRPOParams(clip=0.2)))


ANCHOR = term(spec("token", "sft", family="demonstrations"), CrossEntropy(CrossEntropyParams()))
ON_ANSWERS = term(spec("token", "also"), CrossEntropy(CrossEntropyParams()))


def row(group: int, member: int, family: str = "rollouts") -> Row:
    ids = torch.tensor([[5, 6, 7, 8 + group, *(10 + member + n for n in range(2 + member))]])
    roles = torch.full(ids.shape, int(Role.TEXT), dtype=torch.int8)
    roles[:, :4] = int(Role.PROMPT)
    return Row(TokenSequence(ids, roles), family, group, member, (1.0,) if family == "rollouts" else None)


ROWS = [*(row(p, g) for p in range(3) for g in range(2)), row(0, 0, "demonstrations")]
ADVANTAGES = torch.tensor([[1.0, -1.0], [0.0, 0.0], [0.5, 0.0]], dtype=torch.float64)
VALID = torch.tensor([[True, True], [True, True], [True, False]])


def columns(advantages: Tensor = ADVANTAGES, valid: Tensor = VALID) -> dict[str, Column]:
    old = {each.key: torch.full(each.tokens.ids.shape, -3.0) for each in ROWS if each.sampled}
    return {"advantages": AnswerColumn("rollouts", advantages, valid), "old_logprobs": RowColumn(old)}


def keys(rows: Sequence[Row]) -> list[tuple[int, int]]:
    return [(each.group, each.member) for each in rows if each.family == "rollouts"]


def test_rows_without_an_advantage_teach_nothing() -> None:
    found = sorted_by_signal(ROWS, columns(), [grpo(), ANCHOR])
    assert keys(found.left) == [(1, 0), (1, 1), (2, 1)]
    assert keys(found.run) == [(0, 0), (0, 1), (2, 0)]
    assert found.run[-1].family == "demonstrations"
    assert [keys(each) for each in found.only_left] == [keys(found.left)]
    assert not found.shown


def test_rounding_is_no_signal_and_less_than_all_of_a_row_is_one() -> None:
    noise = torch.where(ADVANTAGES == 0, 4e-10, ADVANTAGES)
    assert keys(sorted_by_signal(ROWS, columns(noise), [grpo()]).left) == [(1, 0), (1, 1), (2, 1)]
    tokens = {each.key: torch.zeros(each.tokens.ids.shape) for each in ROWS if each.sampled}
    tokens["rollouts", 1, 0][0, -1] = 0.1
    found = sorted_by_signal(ROWS, {"advantages": RowColumn(tokens)}, [grpo()])
    assert keys(found.run) == [(1, 0)]


def with_plan(live: LiveTerm, **changes: Any) -> LiveTerm:
    return replace(live, plan=live.plan.model_copy(update=changes))


@pytest.mark.parametrize(
    ("terms", "left"),
    [
        ([grpo(), ON_ANSWERS], []),  # another term learns from all answers
        ([grpo(), with_plan(ON_ANSWERS, members=(0,))], [(1, 1), (2, 1)]),  # or from some
        ([with_plan(grpo(), signal="")], []),  # its loss says nothing of it
        ([ANCHOR], []),  # nobody learns from answers
    ],
)
def test_whoever_else_learns_keeps_them(terms: list[LiveTerm], left: list[tuple[int, int]]) -> None:
    assert keys(sorted_by_signal(ROWS, columns(), terms).left) == left


def test_of_every_term_some_row_is_run() -> None:
    found = sorted_by_signal(ROWS, columns(torch.zeros(3, 2)), [grpo(), ANCHOR])
    assert len(found.left) == 6
    assert keys(found.run) == [(0, 0)]
    assert found.shown == {("rollouts", 0, 0)}
    assert [len(each) for each in found.only_left] == [5]


def learned(
    folder: Path, rows: Sequence[Row], live: LiveTerm, counted: Sequence[Row], quiet: frozenset[Any] = frozenset()
) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
    """Loss, gradients and metrics of `rows` in float64, divided by what `counted` come to."""
    vita = small_vita(folder)
    policy, selection = vita.build_policy(seed=0).double(), Selection((live,), vita.tokens)

    def collated(some: Sequence[Row]) -> MicroBatch:
        return selection.with_columns(selection.collate(some, number=0), columns())

    batch, whole = muted(collated(rows), quiet), collated(counted).terms["rl"]
    scored = score_batch(policy, batch.tokens, selection.union(batch), vita.tokens, temperature=batch.temperature)
    value, tally = term_value(live, batch, scored, {}, count(whole.weights, whole.valid))
    torch.autograd.backward(value)
    return value.detach(), [p.grad.clone() for p in policy.parameters() if p.grad is not None], dict(tally.sums)


@pytest.mark.parametrize("aggregation", ["token", "sequence", "fixed", "sum"])
def test_loss_and_gradients_are_the_same_without_them(tmp_path: Path, aggregation: str) -> None:
    live, answers = grpo(aggregation), ROWS[:6]
    found = sorted_by_signal(answers, columns(), [live])
    loss, gradients, _ = learned(tmp_path, answers, live, answers)
    again, others, _ = learned(tmp_path, found.run, live, answers)
    assert float(loss) != 0
    torch.testing.assert_close(again, loss, rtol=1e-12, atol=0)
    for one, other in zip(gradients, others, strict=True):
        assert (one - other).norm() <= 1e-7 * one.norm()  # norms compute in float32
    wrong, _, _ = learned(tmp_path, found.run, live, found.run)
    assert not torch.allclose(wrong, loss, rtol=1e-3)  # divided by what was run


def test_a_row_that_is_run_for_its_names_counts_in_nothing(tmp_path: Path) -> None:
    live, answers = grpo(), ROWS[:6]
    some = answers[:3]  # the third teaches nothing
    _, _, without = learned(tmp_path, some[:2], live, answers)
    _, _, with_it = learned(tmp_path, some, live, answers, frozenset({some[2].key}))
    _, _, heard = learned(tmp_path, some, live, answers)
    torch.testing.assert_close(with_it, without)
    assert float(heard["ratio"]) > float(without["ratio"])
