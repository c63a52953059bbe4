"""Several held-out answers to a dialogue: the first is judged as if it stood alone, and how different they are."""

from pathlib import Path

import pytest

from tests.e2e.runs import lines
from tests.engine.run.test_trainer import run
from tests.toy.compiled import Change, compiled, problems, put

DRAWN: tuple[Change, ...] = (
    put("evaluation.sampling", {"temperature": 1.0}),
    put("evaluation.metrics.diversity", {"type": "diversity"}),
    put("stages", [{"name": "look", "type": "evaluate"}]),
)


def test_the_first_answer_is_that_of_a_group_of_one(tmp_path: Path) -> None:
    one = run(tmp_path / "one", *DRAWN)
    many = run(tmp_path / "many", *DRAWN, put("evaluation.sampling.group_size", 4))
    (alone,), (group,) = (lines(each / "metrics.jsonl") for each in (one, many))
    assert group["accuracy"] == alone["accuracy"]
    said = [[each["text"] for each in lines(folder / "evaluation.jsonl")] for folder in (one, many)]
    assert said[0] == said[1]
    assert (alone["distinct/count"], group["distinct/count"]) == (0, 36)
    assert 0.25 <= group["distinct"] <= 1 and alone["distinct"] is None


def test_a_group_of_the_same_answers_is_refused(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, put("evaluation.sampling", {"group_size": 2}))
    assert "at temperature 0 all answers of a group are the same" in problem.message
    compiled(tmp_path, put("evaluation.sampling", {"group_size": 2, "streams": {"mix": {"temperature": 0.5}}}))


def test_what_it_adds_to_a_plan_stands_there_only_where_it_is_said(tmp_path: Path) -> None:
    plan, more = compiled(tmp_path), compiled(tmp_path, *DRAWN, put("evaluation.sampling.group_size", 4))
    assert '"group_size": 4' in more.to_json()
    sampling = plan.stages[0].stage.evaluation.sampling
    assert "group_size" not in sampling.model_dump() and sampling.group_size == 1


@pytest.mark.parametrize("size", [0, 5000])
def test_a_size_that_cannot_be(tmp_path: Path, size: int) -> None:
    assert problems(tmp_path, put("evaluation.sampling", {"temperature": 1.0, "group_size": size}))
