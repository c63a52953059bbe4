"""What remembers is registered once, is in every checkpoint, and comes back from it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.engine.run.test_trainer import assert_resumes
from tests.engine.step.test_openings import OPENINGS
from tests.toy.compiled import compiled, put
from tests.toy.live import live_stage
from wavalign.engine.state.remembering import Remembered
from wavalign.engine.step.step import StepExecutor
from wavalign.errors import ResumeError

BASELINE = (OPENINGS, put("objective.advantage", {"type": "toy_baseline"}), put("runtime.checkpoint_every", 2))


class Counter:
    """Remembers a number."""

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count} if self.count else {}

    def load_state_dict(self, state: Any) -> None:
        self.count = state["count"]


def test_states_by_name_and_back() -> None:
    kept, fresh = Remembered(), Remembered()
    for name, count in (("a", 1), ("b", 0), ("c", 3)):
        kept.add(name, Counter(count))
    state = json.loads(json.dumps(kept.state_dict()))
    assert state == {"a": {"count": 1}, "c": {"count": 3}}
    made = {name: Counter() for name in ("a", "b", "c")}
    for name, each in made.items():
        fresh.add(name, each)
    fresh.load_state_dict(state)
    assert [each.count for each in made.values()] == [1, 0, 3]


def test_a_name_is_given_once_and_a_state_has_an_owner() -> None:
    found = Remembered()
    found.add("a", Counter())
    with pytest.raises(ValueError, match="two things are registered as `a`"):
        found.add("a", Counter())
    with pytest.raises(ResumeError, match="holds the state of `b`, which this stage does not have"):
        found.load_state_dict({"b": {}})


def test_all_that_may_remember_is_registered(tmp_path: Path) -> None:
    live = live_stage(compiled(tmp_path, *BASELINE))
    names = {"gate", "advantage", "provider", "reward.exact", "feed.prompts", "feed.demonstrations", "signal", "skips"}
    assert set(live.remembered) == names
    StepExecutor(live).step(0)
    assert live.remembered.state_dict()["advantage"]["count"] == 1
    live.close()


@pytest.mark.parametrize("advantage", ["toy_baseline", "moving_baseline"])
def test_an_advantage_that_remembers_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, advantage: str
) -> None:
    """Killed between two checkpoints and resumed, the run equals one that was never stopped, to the last bit."""
    chosen = put("objective.advantage", {"type": advantage})
    assert_resumes(tmp_path, *BASELINE, chosen, monkeypatch=monkeypatch)
