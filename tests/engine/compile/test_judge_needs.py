"""What a reward needs of an answer may be decided by its options: a judge that hears nothing has nothing vocoded."""

from pathlib import Path
from typing import Any

import pytest

from tests.toy.compiled import graph, problems, put

SERVICE = {"url": "https://api.example.com", "model": "m"}


def judged(**options: Any) -> dict[str, Any]:
    return {"exact": {"type": "judge", "judges": {"one": SERVICE}, **options}}


@pytest.mark.parametrize("options", [{"rubric": "semantic"}, {"rubric": "overall", "hears": "nothing"}])
def test_a_judge_that_reads(tmp_path: Path, options: dict[str, Any]) -> None:
    made = graph(tmp_path, put("rewards", judged(**options)))
    assert not made.gives("waveforms") and made.rollout_need == "text"


@pytest.mark.parametrize("options", [{}, {"rubric": "semantic", "hears": "both"}])
def test_a_judge_that_hears(tmp_path: Path, options: dict[str, Any]) -> None:
    """Needs sound, and so a codec, which the toy recipe lacks."""
    (problem,) = problems(tmp_path, put("rewards", judged(**options)))
    assert problem.path == "rewards.exact" and "codec" in problem.message + problem.hint
