"""The plan: round trip, what its fingerprint follows, sizes, memory, lowering."""

from pathlib import Path
from typing import Any

import pytest

from tests.toy.compiled import Change, compiled, drop, only_stage, put
from tests.toy.world import PLUGINS
from wavalign.engine.compile.geometry import nearest_multiples
from wavalign.engine.compile.plan import Plan

DEEPSPEED = put("runtime.engine", {"type": "deepspeed", "zero": 2})
STAGES: Change = put("stages", [{"name": "warm", "steps": 4}, {"name": "align"}, {"name": "rest", "start": "warm"}])


@pytest.mark.parametrize(
    "changes",
    [(), (DEEPSPEED,), (STAGES,), (put("objective.terms.sft.tokens", {"type": "roles", "audio": 0.5}),)],
    ids=["plain", "deepspeed", "stages", "mask"],
)
def test_round_trip(tmp_path: Path, changes: tuple[Change, ...]) -> None:
    plan = compiled(tmp_path, *changes)
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.fingerprint == plan.fingerprint
    assert again.to_json() == plan.to_json()


SAME: dict[str, Change] = {
    "folder": put("runtime.folder", "elsewhere"),
    "report": put("runtime.report", True),
    "trackers": put("runtime.trackers", ["tensorboard"]),
    "how often": put("runtime.checkpoint_every", 5),
    "how many": put("runtime.keep_checkpoints", 5),
    "which ones": put("runtime.keep_every", 6),
    "times": put("runtime.trace_every", 0),
    "threads": put("runtime.threads", 2),
    "recomputing": put("runtime.gradient_checkpointing", True),
    "workers": put("runtime.reward_workers", 5),
    "description": put("description", "the same in other words"),
    "a default written out": put("rollout.top_p", 1.0),
    "the plugin's default written out": put("objective.gate.ceiling", 0.8),
    "another spelling": put("objective.terms.sft.share", "1-gate"),
    "a loss's default written out": put("objective.terms.rl.loss.clip", 0.2),
}
OTHER: dict[str, Change] = {
    "seed": put("seed", 4),
    "steps": put("steps", 7),
    "name": put("name", "other"),
    "an option": put("objective.gate.ceiling", 0.7),
    "a weight": put("objective.terms.sft.weight", 2),
    "a mask": put("objective.terms.rl.tokens", "all"),
    "a rate": put("optim.learning_rate", 0.004),
    "sizes": put("model.architecture.hidden_size", 64),
    "data": put("data.demonstrations.limit", 13),
    "cut": put("batch.micro_batch", 2),
    "precision": put("runtime.precision", "bf16"),
    "engine": DEEPSPEED,
    "processes": put("runtime.processes", 2),
    "frozen": put("model.freeze", ["embed"]),
    "measured": put("evaluation.every", 3),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_what_the_fingerprint_does_not_follow(tmp_path: Path, change: Change) -> None:
    assert compiled(tmp_path, change).fingerprint == compiled(tmp_path).fingerprint


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER)
def test_what_the_fingerprint_follows(tmp_path: Path, change: Change) -> None:
    assert compiled(tmp_path, change).fingerprint != compiled(tmp_path).fingerprint


def test_an_edited_plugin_is_another_plan(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_bytes(PLUGINS.read_bytes())
    before = compiled(tmp_path, put("plugins", [str(mine)]))
    assert compiled(tmp_path, put("plugins", [str(mine)])).fingerprint == before.fingerprint
    mine.write_bytes(PLUGINS.read_bytes() + b"\nX = 1\n")
    assert compiled(tmp_path, put("plugins", [str(mine)])).fingerprint != before.fingerprint


def test_nothing_is_left_for_a_default_later(tmp_path: Path) -> None:
    """Every component of the plan has all its options."""
    stage = only_stage(compiled(tmp_path))
    loss = {term.name: term.loss.params for term in stage.terms}["rl"]
    pull = {"coefficient": 0.01, "estimator": "k3", "unbiased": False}
    assert loss == {"clip": 0.2, "ratio": "token", "surrogate": "clipped", "dual_clip": None, "kl": pull}
    gate = stage.stage.objective.gate if stage.stage.objective is not None else None
    assert gate is not None
    options = {"ceiling", "threshold", "slope", "max_variance", "ema", "subtract_noise", "zero_variance", "per_prompt"}
    assert set(gate.params) == options
    assert stage.stage.rewards["exact"].params == {"misbehave": ""}


def test_steps_of_stages_add_up(tmp_path: Path) -> None:
    plan = compiled(tmp_path, STAGES)
    assert [(each.name, each.first_step, each.steps) for each in plan.stages] == [
        ("warm", 0, 4),
        ("align", 4, 6),
        ("rest", 10, 6),
    ]
    assert plan.total_steps == 16


@pytest.mark.parametrize(
    ("processes", "micro_batch", "expected"),
    [(1, None, (20, 20, 1)), (1, 8, (20, 8, 3)), (1, 50, (20, 20, 1)), (2, 3, (10, 3, 4)), (4, None, (5, 5, 1))],
)
def test_a_step_in_integers(
    tmp_path: Path, processes: int, micro_batch: int | None, expected: tuple[int, int, int]
) -> None:
    """4 prompts x 4 answers + 4 demonstrations = 20 rows."""
    plan = compiled(tmp_path, put("runtime.processes", processes), put("batch.micro_batch", micro_batch))
    sizes = only_stage(plan).geometry
    assert sizes is not None
    assert (sizes.rows_per_process, sizes.micro_batch, sizes.accumulation) == expected
    (family,) = sizes.families
    assert (sizes.prompts, sizes.group_size, family.groups, family.name) == (4, 4, 4, "demonstrations")
    assert sizes.prompts_per_process == family.groups_per_process == 4 // processes
    assert (sizes.epochs, sizes.mini_batches, sizes.updates) == (1, 1, 1)


def test_rows_that_nobody_learns_from_are_not_counted(tmp_path: Path) -> None:
    """A gate alone needs rollouts, yet the step's prompts are drawn and no row of them is learned from."""
    sizes = only_stage(
        compiled(tmp_path, put("objective.terms", {"sft": {"loss": "cross_entropy"}}), drop("objective.gate"))
    ).geometry
    assert sizes is not None
    assert (sizes.prompts, sizes.group_size, sizes.rows_per_process) == (0, 0, 4)


def test_nearest_multiples() -> None:
    assert [nearest_multiples(10, 4), nearest_multiples(3, 4), nearest_multiples(9, 8)] == ["8 or 12", "4", "8 or 16"]


def test_lowering_takes_the_plans_numbers(tmp_path: Path) -> None:
    plan = compiled(
        tmp_path,
        DEEPSPEED,
        put("runtime.processes", 2),
        put("batch.micro_batch", 3),
        put("optim.max_grad_norm", 0.25),
        put("runtime.precision", "bf16"),
    )
    config: Any = only_stage(plan).deepspeed
    assert (config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"]) == (3, 4)
    assert config["train_batch_size"] == 24
    assert config["zero_optimization"]["stage"] == 2
    assert config["gradient_clipping"] == 0.25
    assert config["bf16"]["enabled"] is True
    assert config["optimizer"]["params"]["lr"] == 0.003
    assert only_stage(compiled(tmp_path)).deepspeed is None
