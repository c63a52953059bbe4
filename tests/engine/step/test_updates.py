"""Epochs of mini-batches: which groups meet, and that the updates are those of a loop written by hand."""

import copy
import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.distributed import run_ranks
from tests.engine.step.test_invariance import CHECKSUM, Run, assert_equal
from tests.toy.compiled import Change, compiled, drop, only_stage, problems, put
from tests.toy.live import live_stage, train, train_rank
from wavalign.engine.models.scored_policy import score_batch
from wavalign.engine.step.batches import Row, collate_rows
from wavalign.engine.step.rows import answer_rows, data_rows
from wavalign.engine.step.step import StepExecutor
from wavalign.engine.step.updates import Update, cut_updates
from wavalign.plugins.batch import Role, TokenSequence

SEVERAL: tuple[Change, ...] = (
    CHECKSUM,
    put("batch.epochs", 2),
    put("batch.mini_batches", 2),
    put("batch.demonstrations", 8),
    put(
        "objective.terms",
        {"rl": {"loss": {"type": "grpo", "clip": 0.2}, "share": 0.5}, "sft": {"loss": "cross_entropy"}},
    ),
    drop("objective.gate"),
    put("rollout.top_p", 0.95),
    put("optim.epsilon", 1e-3),
    put("optim.learning_rate", 0.02),
    put("optim.schedule", {"shape": "linear", "warmup_steps": 1, "final_fraction": 0.5}),
)


def rows(groups: range, family: str = "rollouts", members: int = 2) -> list[Row]:
    tokens = TokenSequence(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int8))
    return [Row(tokens, family, group, member) for group in groups for member in range(members)]


def cut(found: Sequence[Row], *, rank: int = 0, epochs: int = 3, parts: int = 4, step: int = 0) -> list[Update]:
    return cut_updates(found, epochs=epochs, mini_batches=parts, rank=rank, seed=(5, "train", step))


def test_every_epoch_sees_every_row_once_and_groups_whole() -> None:
    everything = rows(range(12))
    updates = cut(everything)
    assert [each.number for each in updates] == list(range(12))
    for epoch in range(3):
        mine = updates[4 * epoch : 4 * epoch + 4]
        assert Counter(row.key for each in mine for row in each.rows) == Counter(row.key for row in everything)
        for each in mine:
            assert len(each.rows) == 6
            assert set(Counter(row.group for row in each.rows).values()) == {2}
    cuts = [[{row.group for row in each.rows} for each in updates[4 * epoch : 4 * epoch + 4]] for epoch in range(3)]
    assert cuts[0] != cuts[1] != cuts[2]  # drawn anew
    assert cut(everything) == updates  # and alike for the same seed
    assert cut(everything, step=1) != updates


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_parts_are_the_same_on_any_number_of_ranks(ranks: int) -> None:
    """Group g of rank r is group r * n + g of all."""
    each = 24 // ranks
    whole = [{row.group for row in update.rows} for update in cut(rows(range(24)))]
    shared: list[set[int]] = [set() for _ in whole]
    for rank in range(ranks):
        for update in cut(rows(range(each)), rank=rank):
            shared[update.number] |= {rank * each + row.group for row in update.rows}
    assert shared == whole


def test_one_mini_batch_leaves_the_rows_as_they_are() -> None:
    everything = rows(range(4)) + rows(range(4), "demonstrations", 1)
    assert [list(each.rows) for each in cut(everything, epochs=2, parts=1)] == [everything, everything]


def by_hand(folder: Path) -> dict[str, Tensor]:
    """Weights after one step of 2 x 2 updates: AdamW and clipping from torch, losses as their formulas say."""
    plan = compiled(folder, *SEVERAL)
    live = live_stage(plan)
    policy = copy.deepcopy(live.backend.policy)
    feed = live.feeds["demonstrations"].next(8)
    live.feeds["demonstrations"].load_state_dict(
        {**live.feeds["demonstrations"].state_dict(), "drawn": 0, "taken": [0]}
    )
    result = StepExecutor(live).step(0)
    live.close()
    space = live.architecture.tokens
    assert result.advantages is not None
    assert result.scores is not None
    golds = data_rows(feed, live.roller.encoder, space, family="demonstrations")
    answers = answer_rows(result.groups, space, family="rollouts", temperatures=[1.0])
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [p for p in policy.parameters() if p.dim() >= 2],
                "weight_decay": plan.stages[0].stage.optim.weight_decay,
            },
            {"params": [p for p in policy.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ],
        betas=plan.stages[0].stage.optim.betas,
        eps=1e-3,
    )
    updates = cut_updates([*answers, *golds], epochs=2, mini_batches=2, rank=0, seed=(3, "train", 0))
    for update in updates:
        batch = collate_rows(update.rows, space, number=0)
        scored = torch.isin(batch.tokens.roles, torch.tensor([2, 3, 4, 5], dtype=torch.int8))
        new = score_batch(policy, batch.tokens, scored, space, temperature=batch.temperature, support=batch.support)
        rl, rl_tokens, sft, sft_tokens = torch.zeros(()), 0, torch.zeros(()), 0
        for b, row in enumerate(update.rows):
            here = scored[b]
            if row.family == "demonstrations":
                sft, sft_tokens = sft - new[b][here].sum(), sft_tokens + int(here.sum())
            elif not result.scores.total[row.group, row.member].isnan():
                rollout = result.groups[row.group].rollouts[row.member]
                chosen = rollout.completion.roles != int(Role.FORCED)
                ratio = (new[b][here] - rollout.logprobs[chosen]).exp()
                advantage = float(result.advantages[row.group, row.member])
                rl = rl - torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).sum()
                rl_tokens += int(here.sum())
        optimizer.zero_grad()
        (0.5 * rl / rl_tokens + sft / sft_tokens).backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), plan.stages[0].stage.optim.max_grad_norm)
        time = update.number / 4  # of step 0 of 6; the first step is warm-up, in quarters
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * (time + 0.25)
        optimizer.step()
    return {name: each.detach() for name, each in policy.named_parameters()}


@functools.cache
def whole(folder: Path) -> Run:
    return train(compiled(folder, *SEVERAL))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("updates")


def test_the_updates_are_those_of_a_loop_written_by_hand(folder: Path) -> None:
    expected = by_hand(folder)
    _, found = train(compiled(folder, *SEVERAL), steps=1)
    start = dict(live_stage(compiled(folder, *SEVERAL)).backend.policy.named_parameters())
    assert max(float((found[name] - each.detach()).abs().max()) for name, each in start.items()) > 1e-2
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, rtol=0, atol=2e-6, msg=name)


def test_the_ratio_is_one_before_the_first_update_alone(folder: Path) -> None:
    lines, _ = whole(folder)
    for line in lines:
        assert line["ratio/first"] == pytest.approx(1, abs=1e-5)
        assert line["rl/max_log_ratio"] > 1e-3  # later updates learn from answers of earlier weights


def test_micro_batches_of_several_updates(folder: Path) -> None:
    assert_equal(train(compiled(folder, *SEVERAL, put("batch.micro_batch", 3))), whole(folder))


ENGINES = {"plain": {"type": "plain"}, **{f"zero {n}": {"type": "deepspeed", "zero": n} for n in range(4)}}


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_two_ranks(folder: Path, engine: dict[str, object]) -> None:
    """Micro-batches of 3 rows, so that an update takes several on each rank."""
    two = compiled(
        folder, *SEVERAL, put("runtime.processes", 2), put("batch.micro_batch", 3), put("runtime.engine", engine)
    )
    found = run_ranks(train_lines, 2, two.to_json())
    wanted, _ = whole(folder)
    for lines in found:
        for ours, theirs in zip(lines, wanted, strict=True):
            assert ours.keys() == theirs.keys()
            for key, value in theirs.items():
                assert ours[key] == pytest.approx(value, rel=2e-4, abs=2e-5), key


def train_lines(world: object, plan: str) -> list[dict[str, float]]:
    """Metrics alone: partitioned weights are not whole on a rank."""
    return train_rank(world, plan)[0]  # type: ignore[arg-type, no-any-return]


def test_what_does_not_divide_is_said(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, put("batch.mini_batches", 3), put("batch.demonstrations", 6))
    assert problem.message == "4 prompts of a process do not divide by 3 mini-batches"
    assert problem.hint == "nearest that divide: 3 or 6; or change batch.mini_batches"


def test_the_plan_says_how_often_weights_move(tmp_path: Path) -> None:
    geometry = only_stage(compiled(tmp_path, *SEVERAL)).geometry
    assert geometry is not None
    assert (geometry.epochs, geometry.mini_batches, geometry.updates) == (2, 2, 4)
    assert (geometry.rows_per_process, geometry.micro_batch) == (24, 12)
    details = {each.name: each.detail for each in only_stage(compiled(tmp_path, *SEVERAL)).graph.operators}
    assert details["updates"] == "2 x 2 mini-batches"
    assert "inert" not in details["term.rl"]  # the ratio moves, so the clip acts
