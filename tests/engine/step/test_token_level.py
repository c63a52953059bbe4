"""Rewards of single tokens from the plugin's word to the weights: by hand, and however a step is cut."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.distributed import run_ranks
from tests.engine.step.test_invariance import CHECKSUM, Run, assert_equal
from tests.toy.compiled import Change, compiled, drop, only_stage, problems, put
from tests.toy.live import live_stage, train, train_rank
from tests.toy.token_rewards import letters
from tests.toy.world import PLUGINS
from wavalign.engine.step.step import StepExecutor
from wavalign.engine.step.token_level import Place, earned
from wavalign.plugins.batch import Role

LETTERS = Path(__file__).parents[2] / "toy" / "token_rewards.py"
TOKENS: tuple[Change, ...] = (
    put("plugins", [str(PLUGINS), str(LETTERS)]),
    put("rewards", {"letters": {"type": "toy_letters", "scale": [-2, 2]}}),
    put("objective.terms", {"rl": {"loss": {"type": "grpo", "clip": 0.2}, "tokens": "all"}}),
    put("objective.advantage", {"type": "return_to_go", "gamma": 0.9}),
    drop("objective.gate"),
    put("optim.epsilon", 1e-3),
    put("optim.learning_rate", 0.05),
)
VALUE = put("objective.terms.value", {"loss": {"type": "value"}, "tokens": "all", "weight": 0.5})
KL = {"coefficient": 0.05, "target": 0.02, "horizon": 50}
PPO: tuple[Change, ...] = (
    *TOKENS,
    CHECKSUM,
    put("objective.advantage", {"type": "gae", "gamma": 0.95, "lam": 0.9, "kl": KL}),
    VALUE,
    put("batch.epochs", 2),
    put("batch.mini_batches", 2),
    put("rollout.top_p", 0.95),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens")


def test_returns_of_letters_by_hand(tmp_path: Path) -> None:
    """What reaches the loss is what a loop over the answer's tokens says, at text, sound and marks."""
    live = live_stage(compiled(tmp_path, *TOKENS))
    seen: dict[tuple[int, int], Tensor] = {}
    micro_batches = live.selection.with_columns

    def watched(batch: Any, columns: Any) -> Any:
        found = micro_batches(batch, columns)
        for index, row in enumerate(found.rows):
            seen[row.group, row.member] = found.columns["advantages"][index, :, : row.tokens.length]
        return found

    live.selection.with_columns = watched  # type: ignore[method-assign]
    result = StepExecutor(live).step(0)
    live.close()
    text = 0
    for p, group in enumerate(result.groups):
        for g, rollout in enumerate(group.rollouts):
            roles, ids = rollout.completion.roles[0].tolist(), rollout.completion.ids[0].tolist()
            worth = [
                2 * letters(live.architecture.token_text(token)) if role == Role.TEXT else 0.0
                for token, role in zip(ids, roles, strict=True)
            ]
            text += sum(role == Role.TEXT for role in roles)
            steps = [t for t, role in enumerate(roles) if role not in (Role.FORCED, Role.PAD)]
            found = seen[p, g][0, group.prompt.length :]
            for k, t in enumerate(steps):
                wanted = sum(0.9**n * worth[later] for n, later in enumerate(steps[k:]))
                assert float(found[t]) == pytest.approx(wanted, abs=1e-6)
            assert not seen[p, g][0, : group.prompt.length].any()
            assert result.advantages is not None
            mean = sum(float(found[t]) for t in steps) / max(len(steps), 1)
            assert float(result.advantages[p, g]) == pytest.approx(mean, abs=1e-6)
    assert text > 20


WHOLE = (put("rewards.letters.whole", True), put("objective.advantage.gamma", 1.0))


def test_a_reward_of_the_answer_is_paid_at_its_end(folder: Path) -> None:
    """Undiscounted and against the group's mean, every token then has the advantage of its answer."""
    found = train(compiled(folder, *TOKENS, *WHOLE, put("objective.advantage.baseline", "group")))
    advantage = {"type": "group_normalized", "std": "none"}
    wanted = train(compiled(folder, *TOKENS, WHOLE[0], put("objective.advantage", advantage)))
    assert_equal(found, wanted)
    assert found[0][0]["grad_norm"] > 1e-3


@pytest.mark.parametrize("tokens", ["text", "audio"])
def test_what_is_rewarded_between_actions_counts_for_the_earlier_one(tokens: str) -> None:
    """Rewards 1, 2, 4, ... at seven positions of which two or three are actions."""
    steps = torch.tensor({"text": [1, 2], "audio": [4, 5, 6]}[tokens])
    chosen = torch.zeros(1, 3 + 7, dtype=torch.bool)
    chosen[:, 3 + steps] = True
    place = Place(None, chosen, 3 + steps)  # type: ignore[arg-type]
    found = earned(place, 2.0 ** torch.arange(7, dtype=torch.float64)[None])
    assert found.tolist() == {"text": [2, 4 + 8 + 16 + 32 + 64], "audio": [16, 32, 64]}[tokens]
    nothing = Place(None, torch.zeros(1, 10, dtype=torch.bool), torch.zeros(0, dtype=torch.int64))  # type: ignore[arg-type]
    assert earned(nothing, torch.ones(1, 7, dtype=torch.float64)).tolist() == []


@functools.cache
def ppo(folder: Path) -> Run:
    return train(compiled(folder, *PPO))


def test_ppo_learns_values(folder: Path) -> None:
    plan = compiled(folder, *PPO)
    assert [head.name for head in only_stage(plan).scalars] == ["values"]
    names = [each.name for each in only_stage(plan).graph.operators]
    assert {"token_rewards", "old_values", "token_advantage", "reference"} <= set(names)
    lines, _ = ppo(folder)
    assert lines[0]["advantage/kl"] == pytest.approx(0, abs=1e-6)  # policy and reference are one before the first step
    assert lines[0]["advantage/kl_coefficient"] == 0.05
    # The divergence is below its target, so the coefficient falls by a fifth of 16 answers in 50.
    assert lines[1]["advantage/kl_coefficient"] == pytest.approx(0.05 * (1 - 0.2 * 16 / 50))
    assert lines[1]["advantage/kl"] != 0
    assert lines[0]["value/value"] != 0  # learned within the first step's four updates
    assert lines[0]["ratio/first"] == pytest.approx(1, abs=1e-5)
    longer, _ = train(plan, steps=12)
    gaps = [abs(line["value/value"] - line["value/return"]) for line in longer]
    assert sum(gaps[-4:]) < sum(gaps[:4]) / 2


@pytest.mark.parametrize("size", [1, 3, 5])
def test_micro_batches(folder: Path, size: int) -> None:
    assert_equal(train(compiled(folder, *PPO, put("batch.micro_batch", size))), ppo(folder))


ENGINES = {"plain": {"type": "plain"}, **{f"zero {n}": {"type": "deepspeed", "zero": n} for n in (0, 2, 3)}}


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_two_ranks(folder: Path, engine: dict[str, object]) -> None:
    """White over the steps of both, values under the weights that sampled, and one coefficient."""
    two = compiled(
        folder, *PPO, put("runtime.processes", 2), put("batch.micro_batch", 3), put("runtime.engine", engine)
    )
    for lines in run_ranks(train_lines, 2, two.to_json()):
        for ours, theirs in zip(lines, ppo(folder)[0], strict=True):
            assert ours.keys() == theirs.keys()
            for key, value in theirs.items():
                assert ours[key] == pytest.approx(value, rel=5e-4, abs=5e-5), key


def train_lines(world: object, plan: str) -> list[dict[str, float]]:
    return train_rank(world, plan)[0]  # type: ignore[arg-type, no-any-return]


def test_an_adapter(folder: Path) -> None:
    """The reference is the policy with its adapter off; dropout leaves the same step for the same seed."""
    lora = put("model.adapter", {"type": "lora", "dropout": 0.1})
    found, again = (train(compiled(folder, *PPO, lora)) for _ in range(2))
    assert_equal(found, again)
    assert found[0][2]["value/value"] != 0


@pytest.mark.parametrize("absent", ["0", "sum", ""])
@pytest.mark.parametrize("how", [PPO, TOKENS], ids=["ppo", "returns"])
def test_groups_without_a_reward(tmp_path: Path, how: tuple[Change, ...], absent: str) -> None:
    """Some groups, or all, have none: nothing is learned from them, by policy and critic alike."""
    ending = {"0": "0", "sum": ("0", "1", "2", "3", "4", "5"), "": "never"}[absent]
    endings = [ending] if isinstance(ending, str) else list(ending)
    changes = [*how, drop("rewards.sum")] if how is PPO else [*how]
    reward = {"type": "toy_letters", "scale": [-2, 2], "absent": endings}
    plan = compiled(tmp_path, *changes, put("rewards.letters", reward), put("runtime.reward_failure_budget", 1))
    lines, weights = train(plan, steps=2)
    for line in lines:
        assert "loss" in line
        if absent == "sum":
            assert line["tokens/rl"] == 0
            assert line["nonzero_advantages"] == 0
            assert line.get("loss/value", 0) == 0
        else:
            assert line["tokens/rl"] > 0
    assert all(bool(torch.isfinite(each).all()) for each in weights.values())


def test_what_does_not_fit_together_is_said(tmp_path: Path) -> None:
    answer = put("objective.advantage", {"type": "group_normalized"})
    (problem,) = problems(tmp_path, *PPO, answer)
    assert problem.path == "objective.terms.value"
    assert problem.message == "term `value` needs returns, which advantage 'group_normalized' does not give"
    (problem,) = problems(tmp_path, *PPO, drop("objective.terms.value"))
    assert problem.path == "objective.advantage"
    assert problem.message == "advantage 'gae' compares with the values of a critic, and no term trains one"
    (problem,) = problems(tmp_path, *TOKENS, put("objective.terms.own", {"loss": "toy_sequence", "tokens": "text"}))
    assert problem.path == "objective.terms.own"
    assert "has one value a sequence, and advantage 'return_to_go' gives one a token" in problem.message
    only = put("objective.terms", {"value": {"loss": {"type": "value"}, "family": "rollouts"}})
    (problem,) = problems(tmp_path, *PPO, only, put("rewards", {}))
    assert problem.message == "term `value` needs returns, and there are no rewards"


@pytest.mark.parametrize(
    ("misbehave", "said"),
    [
        ("shape", "gave tokens of shape"),
        ("nan", "gave nan in tokens at [0, 0]"),
        ("range", "gave 1.5 in tokens at [0, 0]; each lies between 0 and the ends of its range"),
        ("word", "gave str as tokens, which is to be a tensor"),
    ],
)
def test_tokens_that_are_none_are_a_reward_that_failed(tmp_path: Path, misbehave: str, said: str) -> None:
    plan = compiled(
        tmp_path, *TOKENS, put("rewards.letters.misbehave", misbehave), put("runtime.reward_failure_budget", 1)
    )
    live = live_stage(plan)
    result = StepExecutor(live).step(0)
    live.close()
    assert result.scores is not None
    words = [word for group in result.scores.words["letters"] for word in group]
    assert any(said in word.reason for word in words)
    assert all(word.value is None for word in words if said in word.reason)
    assert result.metrics["reward/letters/failed"] > 0
