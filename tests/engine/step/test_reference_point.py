"""KTO's reference point: which rows it is of, its value by hand, and that it depends on nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.distributed import run_ranks
from tests.engine.step.test_invariance import assert_equal
from tests.engine.step.test_openings import PAIRS
from tests.toy.compiled import Change, compiled, only_stage, problems, put
from tests.toy.live import live_stage, train, train_rank
from wavalign.engine.models.scored_policy import Score, score_batch
from wavalign.engine.step.batches import Row
from wavalign.engine.step.rows import mismatched_rows
from wavalign.engine.step.step import StepExecutor
from wavalign.errors import DataError, PluginError
from wavalign.plugins.api import Policy
from wavalign.plugins.batch import Role, TokenSpace, collate

KTO: tuple[Change, ...] = (
    *PAIRS,
    put("objective.terms", {"prefer": {"loss": {"type": "kto", "beta": 0.5, "undesirable_weight": 0.2}}}),
    put("optim.learning_rate", 0.05),
)


def log_ratio(policy: Policy, reference: Score, row: Row, space: TokenSpace) -> float:
    """Of an answer, alone."""
    tokens = collate([row.tokens], space)
    select = (tokens.roles > Role.PROMPT) & (tokens.roles != Role.FORCED)
    with torch.no_grad():
        mine = score_batch(policy, tokens, select, space, temperature=1.0)
        other = reference(tokens, select, temperature=1.0)
    return float((mine - other).sum())


def test_the_value_by_hand(tmp_path: Path) -> None:
    """Of a second step, whose weights have moved: every question with both answers to the next one."""
    live = live_stage(compiled(tmp_path, *KTO))
    executor, space = StepExecutor(live), live.architecture.tokens
    draw = live.feeds["pairs"].next
    first = executor.step(0).metrics  # both sides become likelier: so do answers to other questions
    assert first["prefer/reference_point"] == pytest.approx(0, abs=1e-5)
    assert first["loss/prefer"] == pytest.approx((0.5 + 0.2 * 0.5) / 2, abs=1e-5)
    dialogues = draw(6)
    live.feeds["pairs"].next = lambda count: dialogues  # type: ignore[method-assign]
    rows = mismatched_rows(dialogues, range(6), live.roller.encoder, space, family="pairs")
    assert len(rows) == 12
    assert live.reference is not None
    with live.reference.scoring() as reference:
        ratios = [log_ratio(live.backend.policy, reference, row, space) for row in rows]
    line = executor.step(1).metrics
    live.close()
    point = max(0.0, sum(ratios) / 12)
    assert point > 0.01, "above the least there is"
    assert line["prefer/reference_point"] == pytest.approx(point, abs=1e-4)


def test_a_question_meets_the_answers_to_the_next_one(tmp_path: Path) -> None:
    live = live_stage(compiled(tmp_path, *KTO))
    dialogues, space, encoder = live.feeds["pairs"].next(3), live.architecture.tokens, live.roller.encoder
    rows = mismatched_rows(dialogues, range(3), encoder, space, family="pairs")
    live.close()
    assert [(row.group, row.member) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    for row, (asked, answered, member) in zip(
        rows, [(0, 1, 0), (0, 1, 1), (1, 2, 0), (1, 2, 1), (2, 0, 0), (2, 0, 1)], strict=True
    ):
        prompt = encoder.prompt(dialogues[asked])
        completion = encoder.target(dialogues[answered].singles[member])
        assert torch.equal(row.tokens.ids, torch.cat([prompt.ids, completion.ids], dim=1))
    last = mismatched_rows(dialogues, range(2, 3), encoder, space, family="pairs")
    assert torch.equal(last[0].tokens.ids, rows[4].tokens.ids), "a rank's share is of the whole step's order"


def test_it_depends_on_no_cut(tmp_path: Path) -> None:
    whole = train(compiled(tmp_path, *KTO))
    assert whole[0][2]["prefer/reference_point"] > 0.01, "it is above the least there is"
    assert whole[0][2]["prefer/margin"] > whole[0][0]["prefer/margin"]
    for size in (1, 4):
        assert_equal(train(compiled(tmp_path, *KTO, put("batch.micro_batch", size))), whole)
    two = compiled(tmp_path, *KTO, put("batch.micro_batch", 4), put("runtime.processes", 2))
    for found in run_ranks(train_rank, 2, two.to_json()):
        assert_equal(found, whole)


def test_it_is_taken_anew_in_every_update(tmp_path: Path) -> None:
    """One epoch of two mini-batches: each has the point of its own rows under its own weights."""
    halves = put("batch.mini_batches", 2)
    plan = compiled(tmp_path, *KTO, halves)
    scopes = {each.name: each.scope for each in only_stage(plan).graph.operators}
    assert scopes["reference_point"] == "update"
    assert scopes["mismatched_reference"] == "collect"
    whole = train(plan)
    assert_equal(train(compiled(tmp_path, *KTO, halves, put("batch.micro_batch", 2))), whole)


def test_means_where_the_loss_takes_means(tmp_path: Path) -> None:
    per_token = put(
        "objective.terms.prefer.loss",
        {"type": "kto", "beta": 0.5, "undesirable_weight": 0.2, "length_normalized": True},
    )
    by_sum, by_mean = train(compiled(tmp_path, *KTO))[0], train(compiled(tmp_path, *KTO, per_token))[0]
    assert 0 < by_mean[1]["prefer/reference_point"] < by_sum[1]["prefer/reference_point"]


def test_nobody_else_pays_for_it(tmp_path: Path) -> None:
    others = only_stage(compiled(tmp_path, *PAIRS, put("objective.terms", {"prefer": {"loss": "dpo"}})))
    assert not {"mismatched_rows", "reference_point"} & {each.function for each in others.graph.operators}
    assert not [each for each in others.graph.pruned if "mismatched" in each.what]


def test_one_dialogue_a_step_has_no_other(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, *KTO, put("batch.families.pairs", 1))
    assert problem.path == "batch.families.pairs"
    assert "needs a reference point, and a step has one dialogue" in problem.message


def test_answers_to_rollouts_have_none(tmp_path: Path) -> None:
    terms = {"prefer": {"loss": "kto", "family": "rollouts"}}
    with pytest.raises(PluginError, match="needs reference_point"):
        compiled(tmp_path, put("objective.terms", terms))


def test_what_is_longer_than_the_network_reads_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live = live_stage(compiled(tmp_path, *KTO))
    sizes = live.architecture.dimensions()
    monkeypatch.setattr(live.architecture, "dimensions", lambda: replace(sizes, positions=9))
    executor = StepExecutor(live)
    with pytest.raises(DataError, match=r"with the answer to another one takes \d+ positions of 9"):
        executor.step(0)
    live.close()
