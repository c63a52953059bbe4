"""What is left of a run under DeepSpeed that could not go on, in one process."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.e2e.runs import lines
from tests.engine.run.test_survival import LONG, Cut, fail_at
from tests.engine.run.test_trainer import assert_same_run, run
from tests.toy.compiled import Change, put
from wavalign.engine.backends.deepspeed import DeepSpeedBackend
from wavalign.engine.run.measuring import Measuring
from wavalign.engine.step import learning
from wavalign.engine.step.operators import FUNCTIONS
from wavalign.errors import NonFiniteError, RewardBudgetError

STAGES = [pytest.param(0, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow), 3]
"""The stage that keeps least whole is always tried, also for a second run in one process."""
MEASURED_HERE = (put("evaluation.every", 1), put("optim.learning_rate", 0.03))


def under(zero: int) -> tuple[Change, ...]:
    return (*LONG, put("runtime.engine", {"type": "deepspeed", "zero": zero}))


@pytest.fixture(scope="module", params=STAGES)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A run of six steps that went through, and its ZeRO stage."""
    return run(tmp_path_factory.mktemp("whole"), *under(request.param)), request.param


@pytest.mark.parametrize(
    ("owner", "method", "at", "kept"),
    [
        (FUNCTIONS, "forward", 4, 3),
        pytest.param(FUNCTIONS, "backward", 4, 3, marks=pytest.mark.slow),
        pytest.param(DeepSpeedBackend, "step", 4, None, marks=pytest.mark.slow),
        pytest.param(Measuring, "_measure", 3, 4, marks=pytest.mark.slow),
    ],
)
def test_what_fails_leaves_the_last_complete_step(
    whole: tuple[Path, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    method: str,
    at: int,
    kept: int | None,
) -> None:
    changes = under(whole[1])
    fail_at(monkeypatch, owner, method, at, Cut())
    with pytest.raises(Cut):
        run(tmp_path, *changes)
    monkeypatch.undo()
    found = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("*"))
    assert found == ([f"step-{kept}"] if kept else [])
    run(tmp_path, *changes, resume=True)
    assert_same_run(tmp_path / "run", whole[0])


@pytest.mark.slow
def test_a_gradient_that_is_no_number(whole: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, seen = DeepSpeedBackend.backward, 0

    def spoil(self: DeepSpeedBackend, loss: Any) -> None:
        nonlocal seen
        seen += 1
        original(self, loss * float("nan") if seen == 3 else loss)

    changes = (*under(whole[1]), put("runtime.non_finite_limit", 1))
    monkeypatch.setattr(DeepSpeedBackend, "backward", spoil)
    with pytest.raises(NonFiniteError) as caught:
        run(tmp_path, *changes)
    monkeypatch.undo()
    assert "the checkpoint of step 2 was written" in caught.value.hint
    run(tmp_path, *changes, resume=True)
    assert_same_run(tmp_path / "run", whole[0])


@pytest.mark.slow
def test_rewards_over_their_budget(whole: tuple[Path, int], tmp_path: Path) -> None:
    late = put("rewards.exact", {"type": "toy_late", "scale": [1, 5], "after": 3 * 16})
    with pytest.raises(RewardBudgetError) as caught:
        run(tmp_path, *under(whole[1]), late)
    assert "the checkpoint of step 3 was written: --resume goes on from there" in caught.value.hint


@pytest.mark.slow
def test_broken_weights(whole: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate of NaN: the optimiser itself refuses one that is too large for float32."""
    broken = float("nan")
    monkeypatch.setattr(learning, "learning_rate", lambda optim, index, total, *, each: broken if index == 2 else 1e-3)
    changes = (*under(whole[1]), put("steps", 3), put("runtime.checkpoint_every", 1), put("evaluation.every", 0))
    with pytest.raises(NonFiniteError, match=r"the update of step 3 .* made weights NaN or infinite") as caught:
        run(tmp_path, *changes)
    assert "the checkpoint of step 2 is whole" in caught.value.hint
    found = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("*"))
    assert found == ["step-1", "step-2"]
    monkeypatch.setattr(learning, "learning_rate", lambda optim, index, total, *, each: 1e-3)
    run(tmp_path, *changes, resume=True)


@pytest.mark.slow
def test_the_best_and_the_end(whole: tuple[Path, int], tmp_path: Path) -> None:
    keep = put("runtime.keep_best", {"metric": "heldout/accuracy", "mode": "min"})
    stop = put("stop_early", {"metric": "heldout/accuracy", "mode": "min", "patience": 2})
    done = run(
        tmp_path,
        *under(whole[1]),
        *MEASURED_HERE,
        put("steps", 8),
        keep,
        stop,
    )
    held = json.loads((done / "best.json").read_text())
    measured = {line["step"]: line["accuracy"] for line in lines(done / "metrics.jsonl") if line["split"] == "heldout"}
    assert held["value"] == measured[held["step"]] == min(value for step, value in measured.items() if step)
    assert held["step"] < max(measured) < 8, "it went on, and ended early"
    model = load_file(done / "model" / "model.safetensors")
    end = run(tmp_path / "short", *under(whole[1]), *MEASURED_HERE, put("steps", held["step"]))
    wanted = load_file(end / "model" / "model.safetensors")
    assert all(model[name].equal(wanted[name]) for name in wanted)


@pytest.mark.slow
def test_no_steps(whole: tuple[Path, int], tmp_path: Path) -> None:
    done = run(tmp_path, *under(whole[1]), put("steps", 0))
    assert [(line["step"], line["split"]) for line in lines(done / "metrics.jsonl")] == [(0, "heldout")]
