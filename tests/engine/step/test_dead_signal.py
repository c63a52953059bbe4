"""Steps from which nothing is learned: what is noticed, when it is said, and that a resume goes on counting."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.runs import lines
from tests.toy.compiled import compiled, put
from wavalign.engine import api
from wavalign.engine.compile.plan import StagePlan
from wavalign.engine.step.dead_signal import SignalWatch
from wavalign_cli.displays import PlainDisplay

ALIVE = {"truncated": 0.0, "wordless": 0.0, "reward": 2.0, "nonzero_advantages": 0.5, "share/rl": 0.3}
DEAD: dict[str, tuple[Mapping[str, float], str]] = {
    "equal": ({**ALIVE, "nonzero_advantages": 0.0}, "the same reward"),
    "missing": ({key: value for key, value in ALIVE.items() if key != "reward"}, "no answer has a reward"),
    "truncated": ({**ALIVE, "truncated": 1.0}, "cut off at rollout.max_new_tokens"),
    "wordless": ({**ALIVE, "wordless": 1.0}, "no answer has any text"),
    "share": ({**ALIVE, "share/rl": 1e-5}, "a share of about 0"),
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> StagePlan:
    return compiled(tmp_path_factory.mktemp("plan")).stages[0]


@pytest.mark.parametrize("cause", DEAD)
def test_a_dead_signal_is_said_once_after_so_many_steps(cause: str, stage: StagePlan) -> None:
    metrics, words = DEAD[cause]
    watch = SignalWatch(stage, 3)
    said = []
    for step in range(1, 9):
        added, notes = watch.step(metrics)
        assert added == {"dead_signal": float(step)}
        said += [(step, note) for note in notes]
    assert [step for step, _ in said] == [3] and words in said[0][1] and ";" in said[0][1]


def test_a_step_that_teaches_begins_the_count_again(stage: StagePlan) -> None:
    watch = SignalWatch(stage, 3)
    dead = DEAD["equal"][0]
    counts = [watch.step(each)[0]["dead_signal"] for each in (dead, dead, ALIVE, dead, dead)]
    assert counts == [1, 2, 0, 1, 2]


def test_of_several_causes_the_deepest_is_said(stage: StagePlan) -> None:
    watch = SignalWatch(stage, 1)
    _, notes = watch.step({**ALIVE, "truncated": 1.0, "nonzero_advantages": 0.0})
    assert len(notes) == 1 and "cut off" in notes[0]
    assert not watch.step({**ALIVE, "nonzero_advantages": 0.0})[1]


def test_zero_says_nothing_and_counts_all_the_same(stage: StagePlan) -> None:
    watch = SignalWatch(stage, 0)
    assert [watch.step(DEAD["equal"][0]) for _ in range(3)][-1] == ({"dead_signal": 3.0}, [])


def test_the_count_survives_a_resume(stage: StagePlan) -> None:
    first, dead = SignalWatch(stage, 3), DEAD["equal"][0]
    first.step(dead)
    first.step(dead)
    second = SignalWatch(stage, 3)
    second.load_state_dict(first.state_dict())
    assert len(second.step(dead)[1]) == 1
    third = SignalWatch(stage, 3)
    third.load_state_dict(second.state_dict())
    assert third.step(dead) == ({"dead_signal": 4.0}, [])


def test_a_run_whose_answers_are_cut_off_says_so_once(tmp_path: Path) -> None:
    """The toy's policy is random: few of its answers end within one token."""
    changes: list[Any] = [
        put("rollout.max_new_tokens", 1), put("rollout.truncated", "lowest"), put("runtime.dead_signal_after", 2)
    ]  # fmt: skip
    api.run(compiled(tmp_path, *changes), observer=PlainDisplay(log := io.StringIO()))
    train = [line for line in lines(tmp_path / "run" / "metrics.jsonl") if line["split"] == "train"]
    assert [line["dead_signal"] for line in train] == list(range(1, len(train) + 1))
    assert all(line["truncated"] > 0.8 and line["loss/rl"] == 0 and line["reward_std"] == 0 for line in train)
    about = [text for text in log.getvalue().splitlines() if "nothing was learned" in text]
    assert sum("truncated" in text for text in log.getvalue().splitlines() if text.startswith("step")) >= len(train)
    assert len(about) == 1 and "step 2: for 2 steps" in about[0] and "max_new_tokens" in about[0]
