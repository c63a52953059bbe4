"""A critic in the policy or beside it: what its loss moves, how it is cut, kept and resumed, and where it is not."""

import functools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed import run_ranks
from tests.e2e.runs import comparable
from tests.engine.run.test_scalar_heads import Cut
from tests.engine.run.test_trainer import Stop
from tests.engine.step.test_invariance import Run, assert_equal
from tests.engine.step.test_token_level import PPO, TOKENS, VALUE, train_lines
from tests.toy.compiled import Change, compiled, only_stage, problems, put
from tests.toy.live import live_stage, train
from wavalign.engine import api
from wavalign.engine.backends.plain import PlainBackend
from wavalign.engine.models.scored_policy import ScoredPolicy

SEPARATE = put("objective.critic", {"type": "separate"})
DETACHED = put("objective.critic", {"detach": True})
# Returns without a critic's word, and no common clipping: only the value loss can pass from one to the other.
ALONE: tuple[Change, ...] = (*TOKENS, VALUE, put("optim.max_grad_norm", 1e6))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("critic")


@pytest.mark.parametrize(("critic", "moves"), [((), True), ((DETACHED,), False), ((SEPARATE,), False)])
def test_what_the_value_loss_moves(folder: Path, critic: tuple[Change, ...], moves: bool) -> None:
    """The policy, where they share a trunk; nothing of it, where the head is detached or the critic another network."""
    little, much = (
        train(compiled(folder, *ALONE, *critic, put("objective.terms.value.weight", weight)))[1]
        for weight in (0.01, 5.0)
    )
    gap = max(float((little[name] - much[name]).abs().max()) for name in little)
    assert (gap > 1e-3) if moves else (gap == 0)


@functools.cache
def separate(folder: Path) -> Run:
    return train(compiled(folder, *PPO, SEPARATE))


def test_a_separate_critic_learns(folder: Path) -> None:
    plan = compiled(folder, *PPO, SEPARATE)
    lines, _ = train(plan, steps=12)
    gaps = [abs(line["value/value"] - line["value/return"]) for line in lines]
    assert sum(gaps[-4:]) < sum(gaps[:4]) / 2


def test_it_does_not_depend_on_how_a_step_is_cut(folder: Path) -> None:
    assert_equal(train(compiled(folder, *PPO, SEPARATE, put("batch.micro_batch", 3))), separate(folder))
    two = compiled(folder, *PPO, SEPARATE, put("runtime.processes", 2))
    for lines in run_ranks(train_lines, 2, two.to_json()):
        for ours, theirs in zip(lines, separate(folder)[0], strict=True):
            assert ours.keys() == theirs.keys()
            for key, value in theirs.items():
                assert ours[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key


def test_it_starts_from_the_policys_weights_or_from_a_folder(tmp_path: Path) -> None:
    left = api.run(compiled(tmp_path, *TOKENS, put("steps", 1)))
    for start in (None, str(left / "model")):
        changes = (*PPO, SEPARATE, *(() if start is None else (put("objective.critic.start", start),)))
        live = live_stage(compiled(tmp_path, *changes))
        assert isinstance(live.backend, PlainBackend)
        module = live.backend._module
        assert isinstance(module, ScoredPolicy) and module.critic is not None
        own, policy = dict(module.critic.named_parameters()), dict(live.backend.policy.named_parameters())
        wanted = policy if start is None else load_file(left / "model" / "model.safetensors")
        for name, parameter in own.items():
            assert torch.equal(parameter, wanted[name]), name
            assert parameter is not policy[name]
        live.close()


def test_a_run_is_resumed_bit_for_bit_and_leaves_the_policy_alone(tmp_path: Path) -> None:
    """With the second network, its moments, and the coefficient that follows the divergence."""
    folders = []
    stages = put("stages", [{"name": "warm", "steps": 2}, {"name": "align", "steps": 3}])
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        plan = compiled(tmp_path / name, *PPO, SEPARATE, stages, put("runtime.checkpoint_every", 2))
        if name == "cut":
            with pytest.raises(Stop):
                api.run(plan, observer=Cut(0))
        folders.append(api.run(plan, resume=name == "cut"))
    whole, cut = folders
    for file in ("metrics.jsonl", "rollouts.jsonl"):
        assert comparable(cut / file) == comparable(whole / file)
    states = [load_file(next(each.glob("checkpoints/step-5/**/training.safetensors"))) for each in folders]
    assert states[0].keys() == states[1].keys()
    assert all(states[1][name].equal(tensor) for name, tensor in states[0].items())
    assert any(name.startswith("exp_avg/critic.") for name in states[0])
    assert not any("critic" in name or "scalar" in name for name in load_file(whole / "model" / "model.safetensors"))


def test_what_a_separate_critic_does_not_go_with(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, *PPO, SEPARATE, put("runtime.engine", {"type": "deepspeed", "zero": 2}))
    assert (problem.path, problem.message) == (
        "objective.critic",
        "a separate critic is trained by the plain engine alone",
    )
    (problem,) = problems(tmp_path, *PPO, SEPARATE, put("model.adapter", {"type": "lora"}))
    assert "trained in full" in problem.message
    (problem,) = problems(tmp_path, *TOKENS, SEPARATE)
    assert "nothing for a separate critic to learn" in problem.message
    (problem,) = problems(tmp_path, *PPO, put("objective.critic.start", str(tmp_path)))
    assert problem.path == "objective.critic.start"


def test_plans_without_one_read_as_before(tmp_path: Path) -> None:
    plain = compiled(tmp_path)
    assert '"critic"' not in plain.to_json()
    assert only_stage(compiled(tmp_path, *PPO, SEPARATE)).has_critic
    assert compiled(tmp_path, *PPO, SEPARATE).fingerprint != compiled(tmp_path, *PPO).fingerprint
