"""What is left of a run that could not go on, and what a resume makes of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.runs import lines
from tests.engine.run.test_trainer import assert_same_run, run
from tests.toy.compiled import Change, put
from wavalign.engine.backends.plain import PlainBackend
from wavalign.engine.run.clock import StepClock
from wavalign.engine.run.measuring import Measuring
from wavalign.engine.step import learning
from wavalign.engine.step.operators import FUNCTIONS
from wavalign.errors import NonFiniteError, RewardBudgetError, StorageError

LONG: tuple[Change, ...] = (
    put("runtime.checkpoint_every", 0),
    put("evaluation.every", 2),
    put("objective.gate", {"type": "toy_counting"}),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps that went through."""
    return run(tmp_path_factory.mktemp("whole"), *LONG)


class Cut(BaseException):
    """Something nobody foresaw."""


@pytest.mark.parametrize(
    ("owner", "method", "at", "kept"),
    [
        (FUNCTIONS, "gate", 4, 3),  # feeds have moved on, the gate is about to
        (FUNCTIONS, "forward", 4, 3),  # the gate has moved on
        (FUNCTIONS, "backward", 4, 3),
        (PlainBackend, "step", 4, None),  # whether the weights have moved is not known
        (Measuring, "_measure", 3, 4),  # at the start, after two steps, after four
    ],
)
def test_what_fails_leaves_the_last_complete_step(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, method: str, at: int, kept: int | None
) -> None:
    """The checkpoint is the one that would have been written there: resumed, the run is as if nothing had happened."""
    fail_at(monkeypatch, owner, method, at, Cut())
    with monkeypatch.context(), pytest.raises(Cut):
        run(tmp_path, *LONG)
    monkeypatch.undo()
    found = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("*"))
    assert found == ([f"step-{kept}"] if kept else [])
    run(tmp_path, *LONG, resume=True)
    assert_same_run(tmp_path / "run", whole)


def fail_at(monkeypatch: pytest.MonkeyPatch, owner: Any, method: str, at: int, error: BaseException) -> None:
    """Let the `at`-th call of a method raise, or of the operator that a step has of that name."""
    seen = 0

    def failing(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == at:
                raise error
            return original(*arguments, **named)

        return call

    if owner is FUNCTIONS:
        function = FUNCTIONS[method]
        bound = replace(function, bind=lambda live, plan: failing(function.bind(live, plan)))
        monkeypatch.setitem(FUNCTIONS, method, bound)
    else:
        monkeypatch.setattr(owner, method, failing(getattr(owner, method)))


def test_rewards_over_their_budget_leave_a_checkpoint_and_say_so(tmp_path: Path) -> None:
    changes = (*LONG, put("rewards.exact", {"type": "toy_late", "scale": [1, 5], "after": 3 * 16}))
    with pytest.raises(RewardBudgetError) as caught:
        run(tmp_path, *changes)
    assert "the checkpoint of step 3 was written: --resume goes on from there" in caught.value.hint
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-3"]
    assert [line["step"] for line in lines(tmp_path / "run" / "metrics.jsonl") if line["split"] == "train"] == [1, 2, 3]


def test_a_step_that_is_no_number_leaves_a_checkpoint(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gradient of NaN: the backend leaves the weights, so the step before it can be kept."""
    changes = (*LONG, put("runtime.non_finite_limit", 1))
    fail_at(monkeypatch, PlainBackend, "step", 3, NonFiniteError("the gradient norm is nan"))
    with pytest.raises(NonFiniteError) as caught:
        run(tmp_path, *changes)
    monkeypatch.undo()
    assert "the checkpoint of step 2 was written" in caught.value.hint
    run(tmp_path, *changes, resume=True)
    assert_same_run(tmp_path / "run", whole)


def test_no_checkpoint_where_no_step_was_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_at(monkeypatch, FUNCTIONS, "gate", 1, Cut())
    with pytest.raises(Cut):
        run(tmp_path, *LONG)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("bad", [1, 3])
def test_weights_that_an_update_made_infinite_are_never_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    """The last step's too. What is said of weights and checkpoints is so, and the resume goes on from the whole one."""

    def rate(optim: object, index: float, total: int, *, each: float) -> float:
        return 1e39 if index == bad - 1 else 1e-3

    monkeypatch.setattr(learning, "learning_rate", rate)
    changes = (*LONG, put("steps", bad), put("runtime.checkpoint_every", 1), put("evaluation.every", 0))
    with pytest.raises(NonFiniteError, match=f"the update of step {bad} .* made weights NaN or infinite") as caught:
        run(tmp_path, *changes)
    assert "they were not saved" in caught.value.message
    found = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("*"))
    assert found == [f"step-{step}" for step in range(1, bad)]
    assert not (tmp_path / "run" / "model").exists() and not (tmp_path / "run" / "finished.json").exists()
    if bad == 1:
        assert "no checkpoint was written before" in caught.value.hint
        return
    assert "the checkpoint of step 2 is whole: --resume repeats the steps from there" in caught.value.hint
    monkeypatch.setattr(learning, "learning_rate", lambda optim, index, total, *, each: 1e-3)
    run(tmp_path, *changes, resume=True)
    assert (tmp_path / "run" / "finished.json").exists()


def test_an_error_behind_the_update_names_the_checkpoint_to_go_on_from(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights have moved and their step has no line: the one before is repeated from the newest checkpoint."""
    fail_at(monkeypatch, StepClock, "log_step", 4, StorageError("the disk refused", hint="free space"))
    with pytest.raises(StorageError) as caught:
        run(tmp_path, *LONG, put("runtime.checkpoint_every", 2))
    monkeypatch.undo()
    assert caught.value.hint == "free space; the checkpoint of step 2 is whole: --resume repeats the steps from there"
    run(tmp_path, *LONG, put("runtime.checkpoint_every", 2), resume=True)
    assert_same_run(tmp_path / "run", whole)
