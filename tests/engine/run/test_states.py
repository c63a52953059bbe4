"""Hidden states of held-out answers: which, of what, on how many processes, and where the picture is kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import run_ranks
from tests.e2e.runs import lines
from tests.engine.run.test_trainer import run
from tests.toy.compiled import compiled, put
from tests.toy.live import evaluated_stage, silent
from wavalign.engine.compile.plan import Plan
from wavalign.engine.run import states
from wavalign.engine.run.states import with_states
from wavalign.engine.state.distributed import World
from wavalign.plugins.batch import Role, RolloutGroup, TokenSequence, collate, concatenate

DISTANCE = put("evaluation.metrics", {"distance": {"type": "golden_distance", "folds": 3}})
"""The toy's answers have no sound of their own: `spoken` says that what they hold is sound."""


def spoken(row: TokenSequence) -> TokenSequence:
    """All that was chosen as positions of sound."""
    return replace(row, roles=torch.where(row.roles == int(Role.TEXT), int(Role.AUDIO), row.roles).to(torch.int8))


@pytest.fixture
def sounding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "concatenate", lambda *rows: spoken(concatenate(*rows)))


def test_a_state_is_the_mean_over_positions_of_sound(tmp_path: Path, sounding: None) -> None:
    live, evaluator = evaluated_stage(compiled(tmp_path))
    policy, roller, space = live.backend.policy, live.roller, live.architecture.tokens
    dialogues = evaluator.splits["heldout"][:20]
    gold = roller.gold(dialogues)
    found = with_states(policy, roller, gold)
    for mine, group in zip(found, gold, strict=True):
        row = spoken(concatenate(group.prompt, group.rollouts[0].completion, space))
        with torch.no_grad():
            hidden = policy.hidden(collate([row], space), frozenset({0}))[0][0]
        places = [place for place in range(row.length) if int(row.roles[0, place]) == int(Role.AUDIO)]
        assert places and min(places) >= group.prompt.length
        wanted = torch.stack([hidden[place] for place in places]).mean(dim=0)
        state = mine.rollouts[0].state
        assert state is not None and mine.target_state is not None
        torch.testing.assert_close(state, wanted, rtol=1e-4, atol=1e-5)
        assert torch.equal(state, mine.target_state), "what is the same has the same state"
    live.close()


def test_without_sound_there_is_no_state(tmp_path: Path) -> None:
    live, evaluator = evaluated_stage(compiled(tmp_path))
    (found,) = with_states(live.backend.policy, live.roller, live.roller.gold(evaluator.splits["heldout"][:1]))
    assert found.rollouts[0].state is None and found.target_state is None
    live.close()


def test_the_policy_stays_in_its_mode(tmp_path: Path, sounding: None) -> None:
    live, evaluator = evaluated_stage(compiled(tmp_path))
    policy = live.backend.policy
    for training in (True, False):
        policy.train(training)
        with_states(policy, live.roller, live.roller.gold(evaluator.splits["heldout"][:1]))
        assert policy.training is training
    live.close()


def test_nobody_asks_and_nobody_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any) -> list[RolloutGroup]:
        raise AssertionError("no metric wants states")

    monkeypatch.setattr("wavalign.engine.run.evaluation.with_states", never)
    live, evaluator = evaluated_stage(compiled(tmp_path))
    assert list(evaluator.run(live.backend.policy, silent))
    live.close()


def test_the_picture_is_in_the_lines_of_the_items(tmp_path: Path, sounding: None) -> None:
    folder = run(tmp_path, DISTANCE)
    found = lines(folder / "evaluation.jsonl")
    places = [each["points"]["golden_distance"] for each in found if "points" in each]
    assert len(places) > 10 and all(set(each) == {"gold", "sampled"} for each in places)
    measured = [each for each in lines(folder / "metrics.jsonl") if each["split"] == "heldout"]
    for each in measured:
        assert each["golden_distance/ceiling"] == 0.5 and each["golden_gap/ceiling"] == 0
        assert each["golden_gap/low"] <= each["golden_gap"] <= each["golden_gap/high"]


def rank(world: World, plan: str) -> list[dict[str, float]]:
    states.concatenate = lambda *rows: spoken(concatenate(*rows))  # type: ignore[attr-defined]
    live, evaluator = evaluated_stage(Plan.from_json(plan), world)
    found = [dict(each.values) for each in evaluator.run(live.backend.policy, silent, ranks=world)]
    live.close()
    return found


def test_two_processes_measure_what_one_measures(tmp_path: Path) -> None:
    plan = compiled(tmp_path, DISTANCE)
    (alone,), (shared, none) = run_ranks(rank, 1, plan.to_json()), run_ranks(rank, 2, plan.to_json())
    assert none == []
    for name in ("golden_distance", "golden_gap", "golden_distance/ceiling"):
        assert shared[0][name] == pytest.approx(alone[0][name], abs=1e-4)
