"""Pairs in a step: who learns from which side, what is left out, and that nothing depends on the cut."""

from pathlib import Path

import pytest

from tests.distributed import run_ranks
from tests.engine.step.test_invariance import assert_equal
from tests.engine.step.test_openings import PAIRS
from tests.toy.compiled import Change, compiled, only_stage, problems, put
from tests.toy.live import live_stage, train, train_rank
from tests.toy.world import PLUGINS
from wavalign.engine.step.step import StepExecutor
from wavalign.errors import DataError


def terms(**named: object) -> Change:
    return put("objective.terms", named)


ANCHORED = terms(
    prefer={"loss": {"type": "dpo", "beta": 0.5}, "weight": 10},
    anchor={"loss": "cross_entropy", "family": "pairs", "members": [0]},
)


def test_an_anchor_imitates_the_chosen_side_alone(tmp_path: Path) -> None:
    plan = compiled(tmp_path, *PAIRS, ANCHORED)
    assert [each.members for each in only_stage(plan).terms] == [(0, 1), (0,)]
    lines, _ = train(plan)
    assert lines[0]["tokens/anchor"] == 6 * 4  # "it is WORD" with its end; both sides are 36
    assert lines[0]["loss/prefer"] == pytest.approx(0.693147, abs=1e-5)
    assert lines[0]["loss"] == pytest.approx(10 * lines[0]["loss/prefer"] + lines[0]["loss/anchor"], rel=1e-5)
    assert lines[2]["prefer/margin"] > 0
    other = terms(other={"loss": "cross_entropy", "family": "pairs", "members": [1]})
    assert train(compiled(tmp_path, *PAIRS, other), steps=1)[0][0]["tokens/other"] == 6 * 2


def test_nothing_depends_on_the_cut(tmp_path: Path) -> None:
    whole = train(compiled(tmp_path, *PAIRS, ANCHORED))
    for size in (1, 4, 5):
        assert_equal(train(compiled(tmp_path, *PAIRS, ANCHORED, put("batch.micro_batch", size))), whole)
    two = compiled(tmp_path, *PAIRS, ANCHORED, put("batch.micro_batch", 4), put("runtime.processes", 2))
    for found in run_ranks(train_rank, 2, two.to_json()):
        assert_equal(found, whole)


@pytest.mark.parametrize("loss", ["cpo", "orpo"])
def test_what_comes_along_is_a_term_on_the_chosen_side(tmp_path: Path, loss: str) -> None:
    plan = compiled(tmp_path, *PAIRS, terms(prefer={"loss": {"type": loss, "nll": 0.5}, "weight": 2}))
    _, brought = only_stage(plan).terms
    assert (brought.name, brought.family, brought.members, brought.weight) == ("prefer.nll", "pairs", (0,), 1.0)
    assert not only_stage(plan).graph.gives("ref_logprobs")
    lines, _ = train(plan, steps=1)
    assert lines[0]["tokens/prefer.nll"] == 6 * 4


@pytest.mark.parametrize(
    ("loss", "before"),
    [("apo_zero", 1.0), ("simpo", None), ({"type": "dpo", "variant": "hinge"}, 1.0)],
)
def test_losses_move_the_margin(tmp_path: Path, loss: object, before: float | None) -> None:
    lines, _ = train(compiled(tmp_path, *PAIRS, terms(prefer={"loss": loss})))
    if before is not None:
        assert lines[0]["loss/prefer"] == pytest.approx(before, abs=1e-5)
    assert lines[2]["prefer/margin"] > lines[0]["prefer/margin"]
    assert lines[2]["loss/prefer"] < lines[0]["loss/prefer"]


SCORED = Path(__file__).parents[2] / "toy" / "scored_pairs.py"


def of(type_: str) -> tuple[Change, ...]:
    """All 36 dialogues of a source in every step."""
    files = [str(PLUGINS), str(SCORED)]
    return (*PAIRS, put("plugins", files), put("data.families.pairs", {"type": type_}), put("batch.families.pairs", 36))


def test_a_pair_without_a_side_is_left_out_and_counted(tmp_path: Path) -> None:
    line = train(compiled(tmp_path, *of("toy_lone_sides"), terms(prefer={"loss": "dpo"})), steps=1)[0][0]
    assert (line["tokens/prefer"], line["left_out/prefer"]) == (12, 24)
    assert line["loss/prefer"] == pytest.approx(0.693147, abs=1e-5)


def test_lone_sides_are_enough_for_kto(tmp_path: Path) -> None:
    """Right answers of 12 odd indices that no three divides, wrong ones of 12 even ones, both of 12."""
    lines, _ = train(compiled(tmp_path, *of("toy_lone_sides"), terms(prefer={"loss": "kto"})))
    assert lines[0]["tokens/prefer"] == 48
    assert lines[0]["left_out/prefer"] == 0
    assert lines[0]["prefer/desirable"] == 0.5
    assert lines[2]["prefer/margin"] > 0


def test_stated_scores_reach_the_loss_and_pairs_without_are_left_out(tmp_path: Path) -> None:
    """At the start the margin is 0: (0 - eta (index / 10 + 1))^2 of the 24 pairs whose index no three divides."""
    squared = terms(prefer={"loss": {"type": "rpo", "distance": "squared", "eta": 0.1}})
    plan = compiled(tmp_path, *of("toy_scored_pairs"), squared)
    line = train(plan, steps=1)[0][0]
    indices = [index for index in range(36) if index % 3]
    assert (line["tokens/prefer"], line["left_out/prefer"]) == (24, 12)
    assert line["loss/prefer"] == pytest.approx(sum((index / 100 + 0.1) ** 2 for index in indices) / 24, rel=1e-5)
    assert line["prefer/stated_margin"] == pytest.approx(sum(index / 100 + 0.1 for index in indices) / 24, rel=1e-5)
    cut = compiled(tmp_path, *of("toy_scored_pairs"), squared, put("batch.micro_batch", 5))
    assert_equal(train(cut), train(plan))


def test_pairs_without_any_score_are_told(tmp_path: Path) -> None:
    live = live_stage(compiled(tmp_path, *PAIRS, terms(prefer={"loss": "rpo"})))
    with pytest.raises(DataError, match="can use none of 6 groups of pairs") as caught:
        StepExecutor(live).step(0)
    live.close()
    assert "target_scores" in caught.value.hint


def test_a_side_without_a_token_of_the_term_is_none(tmp_path: Path) -> None:
    """On the tokens of sound there is nothing to compare in pairs of words."""
    live = live_stage(compiled(tmp_path, *PAIRS, terms(prefer={"loss": "dpo", "tokens": "audio"})))
    with pytest.raises(DataError, match="term `prefer` can use none of 6 groups of pairs at step 1") as caught:
        StepExecutor(live).step(0)
    live.close()
    assert "members [0, 1]" in caught.value.hint


def test_members_that_a_loss_compares_are_not_to_be_chosen(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, *PAIRS, terms(prefer={"loss": "dpo", "members": [0]}))
    assert problem.path == "objective.terms.prefer.members"
    assert "loss 'dpo' learns from members [0, 1] of a group together" in problem.message
