"""A run that samples ahead and is cut off anywhere goes on as if nothing had happened: what was in flight is kept."""

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.runs import comparable, lines
from tests.engine.run.test_several_processes import joined, newest, sided
from tests.engine.run.test_survival import Cut, fail_at
from tests.engine.run.test_trainer import assert_same_run, run
from tests.toy.compiled import Change, put
from wavalign.engine.backends.plain import PlainBackend
from wavalign.engine.run.measuring import Measuring
from wavalign.engine.step.operators import FUNCTIONS
from wavalign.errors import ResumeError

LONG: tuple[Change, ...] = (
    put("rollout.ahead", 1),
    put("runtime.checkpoint_every", 0),
    put("evaluation.every", 2),
    put("objective.gate", {"type": "toy_counting"}),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps that went through."""
    return run(tmp_path_factory.mktemp("whole"), *LONG)


@pytest.mark.parametrize(
    ("owner", "method", "at", "kept"),
    [
        (FUNCTIONS, "rollout_ahead", 4, 3),  # what was in flight has been taken
        (FUNCTIONS, "gate", 4, 3),  # and the step after the next one's prompts are drawn
        (FUNCTIONS, "backward", 6, 5),  # the last step, which samples nothing
        (PlainBackend, "step", 4, None),
        (Measuring, "_measure", 3, 4),
    ],
)
def test_cut_off_anywhere_and_resumed(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, method: str, at: int, kept: int | None
) -> None:
    fail_at(monkeypatch, owner, method, at, Cut())
    with pytest.raises(Cut):
        run(tmp_path, *LONG)
    monkeypatch.undo()
    found = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("*"))
    assert found == ([f"step-{kept}"] if kept else [])
    run(tmp_path, *LONG, resume=True)
    assert_same_run(tmp_path / "run", whole)


def test_the_last_checkpoint_keeps_nothing_in_flight(tmp_path: Path) -> None:
    folder = run(tmp_path, *LONG, put("runtime.checkpoint_every", 1), put("runtime.keep_checkpoints", 6))
    kept = {path.name for path in (folder / "checkpoints").iterdir() if (path / "in_flight").exists()}
    assert kept == {f"step-{step}" for step in range(1, 6)}


def test_it_is_another_run_than_one_that_waits(whole: Path, tmp_path: Path) -> None:
    """The first step alone has answers of its own weights in both."""
    waits = run(tmp_path, *LONG, put("rollout.ahead", 0))
    one, other = (
        [line for line in comparable(each / "metrics.jsonl") if line["split"] == "train"] for each in (waits, whole)
    )
    assert one[0]["reward"] == other[0]["reward"] and one[0]["loss"] == pytest.approx(other[0]["loss"], rel=1e-4)
    assert [line["loss"] for line in one[2:]] != [line["loss"] for line in other[2:]]
    assert all("mismatch/mean" in line for line in other)


def test_answers_of_other_data_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should what was drawn again not be what was answered, nobody learns from it."""
    fail_at(monkeypatch, FUNCTIONS, "gate", 4, Cut())
    with pytest.raises(Cut):
        run(tmp_path, *LONG)
    monkeypatch.undo()
    monkeypatch.setattr("wavalign.engine.step.ahead.InFlight._draw_all", lambda self: self._feed.next(5)[1:])
    with pytest.raises(ResumeError, match="to other prompts than the data gives"):
        run(tmp_path, *LONG, resume=True)


def test_a_rank_is_lost_and_the_first_one_keeps_what_both_had_in_flight(tmp_path: Path) -> None:
    ahead = put("rollout.ahead", 1)
    ends = joined(tmp_path / "cut", ahead, put("objective.advantage", sided("advantage", 1, 3)))
    assert [end["type"] for end in ends] == ["RankLostError", "PluginError"]
    assert newest(tmp_path / "cut") == ["step-3"]
    held = tmp_path / "cut" / "run" / "checkpoints" / "step-3" / "in_flight"
    assert sorted(path.name for path in held.iterdir()) == ["rank-00000.safetensors", "rank-00001.safetensors"]
    ends = joined(tmp_path / "cut", ahead, put("objective.advantage", sided("advantage", 1, 3)), resume=True)
    assert [end["type"] for end in ends] == ["", ""]
    ends = joined(tmp_path / "whole", ahead, put("objective.advantage", sided("advantage", 1, 99)))
    assert [end["type"] for end in ends] == ["", ""]
    assert_same_run(tmp_path / "cut" / "run", tmp_path / "whole" / "run")
    assert len([line for line in lines(tmp_path / "cut/run/metrics.jsonl") if line["split"] == "train"]) == 6
