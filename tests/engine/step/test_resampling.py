"""Groups without spread are replaced: by which prompts, on any number of ranks, over a resume, and what it costs."""

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import run_ranks
from tests.engine.run.test_trainer import assert_resumes
from tests.engine.step.test_invariance import assert_equal
from tests.toy.compiled import Change, compiled, drop, only_stage, problems, put
from tests.toy.live import live_stage, train, train_rank
from wavalign.engine.step.resampling import varies
from wavalign.engine.step.step import StepExecutor
from wavalign.errors import RewardBudgetError
from wavalign.plugins.batch import RolloutGroup

NAN = math.nan
RARE: tuple[Change, ...] = (
    # A reward that few groups disagree on, so that some rounds are needed and the last does not find all.
    put("rewards", {"parity": {"type": "toy_parity"}}),
    put("plugins", [str(Path(__file__).parents[2] / "toy" / name) for name in ("plugins.py", "openings.py")]),
    put("rollout.group_size", 2),
    put("rollout.resample", {"limit": 2}),
    put("optim.epsilon", 1e-3),
)


def test_which_groups_vary() -> None:
    total = torch.tensor([[1, 2], [1, 1], [NAN, 3], [NAN, NAN], [2, 1]], dtype=torch.float64)
    assert varies(total).tolist() == [True, False, False, False, True]
    assert varies(torch.zeros(0, 2, dtype=torch.float64)).tolist() == []


def test_the_plan_shows_it(tmp_path: Path) -> None:
    graph = only_stage(compiled(tmp_path, *RARE)).graph
    (operator,) = (each for each in graph.operators if each.function == "resample")
    assert operator.needs == ("drawn.rollouts", "drawn.old_logprobs", "drawn.scores")
    assert set(operator.gives) == {"rollouts", "old_logprobs", "scores", "rewards", "resampled"}
    plain = only_stage(compiled(tmp_path, *RARE, drop("rollout.resample"))).graph
    assert not plain.gives("resampled") and not plain.gives("drawn.rollouts")


def steps(folder: Path, *changes: Change, count: int = 3) -> list[dict[str, Any]]:
    """What every step kept: questions, rewards, answers, and metrics."""
    live = live_stage(compiled(folder, *RARE, *changes))
    executor = StepExecutor(live)
    found = []
    for index in range(count):
        result = executor.step(index)
        groups: list[RolloutGroup] = list(result.groups)
        assert result.scores is not None
        found.append(
            {
                "questions": [group.dialogue.id for group in groups],
                "texts": [[each.answer.text for each in group.rollouts] for group in groups],
                "total": result.scores.total,
                "metrics": dict(result.metrics),
                "drawn": live.feeds["prompts"].state_dict()["drawn"],
            }
        )
    live.close()
    return found


def test_flat_groups_make_way_for_the_next_prompts(tmp_path: Path) -> None:
    """The first step of both runs draws the same; where it varied nothing changes, elsewhere further prompts stand."""
    (plain,), (kept,) = steps(tmp_path, drop("rollout.resample"), count=1), steps(tmp_path, count=1)
    varied = varies(plain["total"])
    assert 0 < varied.sum() < len(varied)
    for place, same in enumerate(varied.tolist()):
        if same:
            assert kept["texts"][place] == plain["texts"][place]
            assert kept["questions"][place] == plain["questions"][place]
        elif varies(kept["total"])[place]:
            assert kept["questions"][place] not in plain["questions"]
        else:
            assert kept["questions"][place] == plain["questions"][place]
    assert varies(kept["total"]).sum() > varied.sum()
    metrics = kept["metrics"]
    assert metrics["rollout_rounds"] in (2, 3)
    assert metrics["resampled_groups"] >= (~varied).sum() > 0
    assert kept["drawn"] == len(varied) + metrics["resampled_groups"]
    assert metrics["zero_variance_groups"] == pytest.approx(float((~varies(kept["total"])).double().mean()))


def test_rewards_belong_to_the_answers_that_are_kept(tmp_path: Path) -> None:
    for step in steps(tmp_path):
        worth = [[float(sum(map(ord, text)) % 2) for text in group] for group in step["texts"]]
        assert step["total"].tolist() == worth


def test_nothing_is_drawn_where_all_groups_vary_and_the_limit_ends_it_where_none_does(tmp_path: Path) -> None:
    one_sided = put("rewards", {"exact": {"type": "toy_exact"}})  # a model that has learned nothing is never right
    (step,) = steps(tmp_path, one_sided, count=1)
    assert step["metrics"]["rollout_rounds"] == 3
    assert step["metrics"]["resampled_groups"] == 2 * len(step["questions"])
    assert step["metrics"]["sampled_reward"] == step["metrics"]["reward"]
    many = (put("rollout.group_size", 16), put("rollout.temperature", 1.5))
    (step,) = steps(tmp_path, *many, count=1)
    assert (step["metrics"]["rollout_rounds"], step["metrics"]["resampled_groups"]) == (1, 0)


@functools.cache
def whole(folder: Path) -> Any:
    return train(compiled(folder, *RARE))


def test_two_ranks_keep_the_same_groups(tmp_path: Path) -> None:
    lines, _ = wanted = whole(tmp_path)
    assert all(line["resampled_groups"] > 0 for line in lines)
    two = compiled(tmp_path, *RARE, put("runtime.processes", 2))
    for found in run_ranks(train_rank, 2, two.to_json()):
        assert_equal(found, wanted)


def test_it_is_the_same_however_rows_are_cut(tmp_path: Path) -> None:
    assert_equal(train(compiled(tmp_path, *RARE, put("batch.micro_batch", 3))), whole(tmp_path))


def test_a_resume_goes_on_with_the_prompts_that_come_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_resumes(tmp_path, *RARE, monkeypatch=monkeypatch)


def test_failures_of_all_rounds_count_against_the_budget(tmp_path: Path) -> None:
    """8 answers, then 8, then 8: from the ninth call on the reward is gone, so 16 of 24 calls fail."""
    late = put("rewards", {"late": {"type": "toy_late", "after": 8}})
    sizes = (put("batch.prompts", 4), put("rollout.truncated", "keep"))
    with pytest.raises(RewardBudgetError, match="8 of 16 calls"):
        steps(tmp_path, late, *sizes, put("runtime.reward_failure_budget", 0.4), count=1)
    with pytest.raises(RewardBudgetError, match="16 of 24 calls"):
        steps(tmp_path, late, *sizes, put("runtime.reward_failure_budget", 0.5), count=1)
    (step,) = steps(tmp_path, late, *sizes, put("runtime.reward_failure_budget", 0.7), count=1)
    assert step["metrics"]["sampled_reward"] == 1


def test_a_rank_with_nothing_to_draw_waits_for_the_others(tmp_path: Path) -> None:
    """Two prompts a step, one a rank: mostly one of them is missing alone."""
    two = (put("batch.prompts", 2), put("rollout.group_size", 3))
    lines, _ = wanted = train(compiled(tmp_path, *RARE, *two))
    assert any(line["resampled_groups"] % 2 for line in lines)
    for found in run_ranks(train_rank, 2, compiled(tmp_path, *RARE, *two, put("runtime.processes", 2)).to_json()):
        assert_equal(found, wanted)


def test_without_rewards_there_is_nothing_to_compare(tmp_path: Path) -> None:
    found = problems(
        tmp_path, put("rollout.resample", {"limit": 1}), put("rewards", {}), drop("objective.gate"),
        put("objective.terms", {"sft": {"loss": "cross_entropy"}}),
    )  # fmt: skip
    assert [(each.code, each.path) for each in found] == [("missing_section", "rollout.resample")]
    assert "there are no rewards" in found[0].message


def test_advantages_are_those_of_the_kept_groups(tmp_path: Path) -> None:
    live = live_stage(compiled(tmp_path, *RARE))
    result = StepExecutor(live).step(0)
    live.close()
    assert result.scores is not None and result.advantages is not None
    total = result.scores.total
    centred = total - total.mean(dim=1, keepdim=True)
    wanted = centred / (centred.square().mean(dim=1, keepdim=True).sqrt() + 1e-4)
    torch.testing.assert_close(result.advantages, wanted, rtol=1e-12, atol=1e-12)
