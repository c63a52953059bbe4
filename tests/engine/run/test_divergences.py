"""How far a policy is from what the run started from: against the sum over the vocabulary, and as a metric of a run."""

import math
from pathlib import Path

import pytest
import torch

from tests.distributed import run_ranks
from tests.e2e.runs import lines
from tests.engine.run.test_trainer import run
from tests.toy.compiled import compiled, put
from tests.toy.live import evaluated_stage, silent
from wavalign.engine.compile.plan import Plan
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.divergences import with_divergences
from wavalign.engine.state.distributed import World
from wavalign.engine.state.seeds import generator
from wavalign.plugins.batch import SCORED_ROLES, collate, concatenate

KL = put("evaluation.metrics", {"far": {"type": "kl_to_start"}})


def test_it_is_the_sum_over_the_vocabulary(tmp_path: Path) -> None:
    """Both networks look at each answer alone, and every probability is written out."""
    plan = compiled(tmp_path, put("evaluation.sampling", {"temperature": 1.0}))
    live, evaluator = evaluated_stage(plan)
    policy, space = live.backend.policy, live.architecture.tokens
    start = Builder(plan, World.single("cpu"), silent)._first_policy(plan.stages[0])
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    dialogues = evaluator.splits["heldout"][:20]
    groups = live.roller.sample(policy, dialogues, evaluator.options, generator(0, "evaluation"))
    found = with_divergences(policy, start, live.roller, groups)
    seen = 0
    for mine, group in zip(found, groups, strict=True):
        answer, divergence = group.rollouts[0], mine.rollouts[0].divergence
        assert divergence is not None and divergence.shape == answer.completion.ids.shape
        batch = collate([concatenate(group.prompt, answer.completion, space)], space)
        with torch.no_grad():
            ours, theirs = (
                torch.softmax(each.hidden(batch, frozenset({0}))[0][0].double() @ each.head_weight(0).double().t(), -1)
                for each in (policy, start)
            )
        for place in range(answer.completion.length):
            at = group.prompt.length + place - 1
            if int(answer.completion.roles[0, place]) not in [int(role) for role in SCORED_ROLES]:
                assert math.isnan(float(divergence[0, place]))
                continue
            wanted = float((ours[at] * (ours[at] / theirs[at]).log()).sum())
            assert float(divergence[0, place]) == pytest.approx(wanted, rel=1e-3, abs=1e-5) and wanted > 0
            seen += 1
    assert seen > 40
    live.close()


def test_it_is_0_at_the_start_and_grows_from_stage_to_stage(tmp_path: Path) -> None:
    """The start is that of the run, not of the stage."""
    look = {"type": "evaluate", "objective": None}
    train = {"steps": 2, "evaluation": {"at_start": False, "at_end": False}}
    stages = [{"name": "a", **look}, {"name": "b", **train}, {"name": "c", **look}, {"name": "d", **train},
              {"name": "e", **look}]  # fmt: skip
    folder = run(tmp_path, KL, put("stages", stages), put("optim.learning_rate", 1e-2))
    found = {each["stage"]: each for each in lines(folder / "metrics.jsonl") if each["split"] == "heldout"}
    assert found["a"]["kl_to_start"] == pytest.approx(0, abs=1e-6)
    assert 1e-3 < found["c"]["kl_to_start"] < found["e"]["kl_to_start"]
    last = found["e"]
    assert last["kl_to_start/low"] <= last["kl_to_start"] <= last["kl_to_start/high"]
    assert last["kl_to_start/tokens=text"] == last["kl_to_start"] and last["kl_to_start/ceiling"] is None
    items = [each["values"]["kl_to_start"] for each in lines(folder / "evaluation.jsonl") if each["stage"] == "e"]
    assert sum(items) / len(items) == pytest.approx(last["kl_to_start"])


def rank(world: World, plan: str) -> list[dict[str, float]]:
    live, evaluator = evaluated_stage(Plan.from_json(plan), world)
    with torch.no_grad():
        for parameter in live.backend.policy.parameters():
            parameter.mul_(1.1)
    found = [dict(each.values) for each in evaluator.run(live.backend.policy, silent, ranks=world)]
    live.close()
    return found


def test_two_processes_measure_what_one_measures(tmp_path: Path) -> None:
    plan = compiled(tmp_path, KL)
    (alone,), (shared, none) = run_ranks(rank, 1, plan.to_json()), run_ranks(rank, 2, plan.to_json())
    assert none == [] and alone[0]["kl_to_start"] > 1e-4
    assert shared[0]["kl_to_start"] == pytest.approx(alone[0]["kl_to_start"], rel=1e-4)
