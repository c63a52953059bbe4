"""Updates whose gradients are no numbers: skipped on every rank, counted, kept, and found again by a replay."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.e2e.runs import lines, wavalign
from tests.engine.run.test_trainer import assert_same_run, run
from tests.toy.compiled import Change, put
from tests.toy.world import toy_recipe, write_recipe
from wavalign.engine import api
from wavalign.engine.backends.base import Backend
from wavalign.engine.run.observers import Observer, RunInfo
from wavalign.engine.step.operators import FUNCTIONS
from wavalign.errors import NonFiniteError, UsageError

SHORT: tuple[Change, ...] = (put("steps", 4), put("batch.micro_batch", 3), put("runtime.checkpoint_every", 0))
PLAIN: dict[str, Any] = {"type": "plain"}
ENGINES = [
    PLAIN,
    *(
        pytest.param({"type": "deepspeed", "zero": zero}, marks=pytest.mark.slow if zero < 3 else ())
        for zero in (0, 1, 2, 3)
    ),
]


class Heard(Observer):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def start(self, info: RunInfo) -> None: ...
    def stage(self, name: str, steps: int) -> None: ...
    def step(self, metrics: Any, step: int) -> None: ...
    def evaluation(self, *_: Any) -> None: ...
    def progress(self, what: str, done: int, total: int) -> None: ...
    def finish(self, text: str) -> None: ...
    def close(self) -> None: ...

    def message(self, text: str) -> None:
        self.said.append(text)


def spoilt(monkeypatch: pytest.MonkeyPatch, at: frozenset[int], value: float = math.nan) -> None:
    """Let the gradient of every `at`-th backward pass (from 1) be `value`."""
    original: Callable[..., None] = Backend.backward
    seen = 0

    def backward(self: Backend, loss: Tensor) -> None:
        nonlocal seen
        seen += 1
        original(self, loss * value if seen in at else loss)

    monkeypatch.setattr(Backend, "backward", backward)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def micro_batches(folder: Path) -> int:
    """Of each of a run's updates, which have one and the same number of rows."""
    return 7  # 16 answers and 4 demonstrations, 3 at a time


@pytest.mark.parametrize("engine", ENGINES, ids=lambda each: f"{each['type']}{each.get('zero', '')}")
def test_a_skipped_update_moves_nothing_and_the_next_ones_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: dict[str, Any]
) -> None:
    """The last step's: the weights are those of the run that ends one step before."""
    changes = (*SHORT, put("runtime.engine", engine))
    three = run(tmp_path / "three", *changes, put("steps", 3))
    with monkeypatch.context() as patched:
        spoilt(patched, frozenset({3 * micro_batches(three) + 2}))
        heard = Heard()
        found = run(tmp_path / "found", *changes, observer=heard)
    ours, theirs = weights(found), weights(three)
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    last = [line for line in lines(found / "metrics.jsonl") if line["split"] == "train"][-1]
    assert last["skipped_updates"] == 1 and "grad_norm" not in last
    assert math.isfinite(last["reward"])
    (said,) = [text for text in heard.said if "skipped" in text]
    assert re.search(r"the gradient norm is (nan|inf) at step 4 of stage .train.; `wavalign run --replay ", said)
    assert [path.name for path in (found / "skipped").iterdir()] == ["step-4"]


@pytest.mark.parametrize("engine", ENGINES, ids=lambda each: f"{each['type']}{each.get('zero', '')}")
def test_a_run_goes_on_and_resumes_as_if_it_had_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: dict[str, Any]
) -> None:
    changes = (*SHORT, put("runtime.engine", engine), put("runtime.non_finite_limit", 2))
    second = frozenset({micro_batches(tmp_path) + 1})
    with monkeypatch.context() as patched:
        spoilt(patched, second, math.inf)
        whole = run(tmp_path / "whole", *changes)
    found = [line.get("skipped_updates") for line in lines(whole / "metrics.jsonl") if line["split"] == "train"]
    assert found == [None, 1, 0, 0], "logged from the first one on"
    with monkeypatch.context() as patched:
        spoilt(patched, second | {2 * micro_batches(tmp_path) + 1}, math.inf)
        with pytest.raises(NonFiniteError, match="2 updates in a row") as caught:
            run(tmp_path / "cut", *changes)
    assert "runtime.non_finite_limit is 2" in caught.value.message
    assert "the checkpoint of step 2 was written" in caught.value.hint
    assert_same_run(run(tmp_path / "cut", *changes, resume=True), whole)


def test_the_first_ends_the_run_where_the_limit_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt(monkeypatch, frozenset({1}))
    with pytest.raises(NonFiniteError, match="the gradient norm is nan at step 1 of stage 'train'; the weights"):
        run(tmp_path, *SHORT, put("runtime.non_finite_limit", 1))


def test_a_loss_that_is_no_number_skips_also_where_its_gradient_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An infinite constant has no gradient; the loss is none nevertheless."""
    function, calls = FUNCTIONS["objective"], 0

    def bind(live: Any, plan: Any) -> Any:
        original = function.bind(live, plan)

        def call(values: Any) -> Any:
            nonlocal calls
            calls += 1
            name = plan.needs[0]
            return original({**values, name: values[name] + (math.inf if calls == 2 else 0.0)})

        return call

    monkeypatch.setitem(FUNCTIONS, "objective", replace(function, bind=bind))
    found = run(tmp_path, *SHORT, put("objective.gate", {"type": "toy_counting"}))
    first = next(line for line in lines(found / "metrics.jsonl") if line["split"] == "train")
    assert first["skipped_updates"] == 1


def test_one_of_several_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step's numbers are those of the updates that were taken."""
    changes = (put("steps", 1), put("batch.mini_batches", 2))
    whole = run(tmp_path / "whole", *changes)
    with monkeypatch.context() as patched:
        spoilt(patched, frozenset({2}))
        found = run(tmp_path / "found", *changes)
    ours, theirs = (
        next(line for line in lines(each / "metrics.jsonl") if line["split"] == "train") for each in (found, whole)
    )
    assert ours["skipped_updates"] == 1
    assert math.isfinite(ours["loss"]) and ours["loss"] != theirs["loss"]
    assert ours["grad_norm"] != theirs["grad_norm"] and ours["grad_norm"] > 0


def test_no_more_are_kept_than_a_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = frozenset(1 + number * micro_batches(tmp_path) for number in range(5))
    spoilt(monkeypatch, every)
    found = run(tmp_path, *SHORT, put("steps", 5), put("runtime.non_finite_limit", 9))
    assert sorted(path.name for path in (found / "skipped").iterdir()) == ["step-1", "step-2", "step-3"]


# --- a replay ---------------------------------------------------------------------------------------------------------

STEEP: tuple[Change, ...] = (
    *SHORT,
    put("objective.terms.sft.loss", {"type": "toy_steep", "above": 0.1}),
    put("optim.learning_rate", 0.02),
    put("steps", 8),
    put("runtime.non_finite_limit", 1),
)


def ends(folder: Path, engine: dict[str, Any]) -> Path:
    """A run that ends because a loss's gradient breaks down where tokens are likely; what it kept."""
    with pytest.raises(NonFiniteError):
        run(folder, *STEEP, put("runtime.engine", engine))
    (kept,) = (folder / "run" / "skipped").iterdir()
    return kept


@pytest.mark.parametrize("engine", ENGINES, ids=lambda each: f"{each['type']}{each.get('zero', '')}")
def test_a_replay_names_term_micro_batch_token_and_weight(tmp_path: Path, engine: dict[str, Any]) -> None:
    kept = ends(tmp_path, engine)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    said: list[str] = []
    api.replay(kept, said.append)
    assert re.search("update 1: 7 micro-batches; the run said: the gradient norm is (nan|inf)$", said[0])
    assert said[1].startswith("first: micro-batch ") and "gradient at the log-probs of term sft: nan at [" in said[1]
    assert "of demonstrations" in said[1]
    assert said[2].startswith("then: micro-batch ") and "gradient of weight " in said[2]
    assert said[-1] in ("the gradient norm is nan", "the gradient norm is inf")
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_replay_names_the_module_where_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight that is finite and whose products are not."""
    original = torch.nn.functional.silu

    def silu(values: Tensor, inplace: bool = False) -> Tensor:
        return original(values, inplace) / (0.0 if torch.is_grad_enabled() else 1.0)

    monkeypatch.setattr(torch.nn.functional, "silu", silu)
    with pytest.raises(NonFiniteError, match="the loss is nan"):
        run(tmp_path, *SHORT, put("runtime.non_finite_limit", 1), put("evaluation.at_start", False))
    said: list[str] = []
    api.replay(tmp_path / "run" / "skipped" / "step-1", said.append)
    assert "first: micro-batch 1, module model.layers.0.mlp.act_fn: its inputs are finite" in said
    assert any("value logprobs: nan at" in line for line in said)
    monkeypatch.undo()
    said.clear()
    api.replay(tmp_path / "run" / "skipped" / "step-1", said.append)
    assert said[1].startswith("every value is finite this time, and the gradient norm of all processes is ")


@pytest.mark.slow
@pytest.mark.parametrize("engine", [PLAIN, {"type": "deepspeed", "zero": 3}], ids=["plain", "zero3"])
def test_two_processes_skip_alike_and_replay_together(tmp_path: Path, engine: dict[str, Any]) -> None:
    """As a person does it; the loss breaks down on one of the processes, or on both."""
    recipe = toy_recipe(tmp_path, engine=engine, processes=2)
    for change in STEEP:
        change(recipe)
    done = wavalign("run", write_recipe(tmp_path, recipe))
    assert done.returncode == 1, done.stderr
    assert re.search("the gradient norm is (nan|inf) at step", done.stderr) and "GLHF" not in done.stderr
    (kept,) = (tmp_path / "run" / "skipped").iterdir()
    again = wavalign("run", "--replay", str(kept))
    assert again.returncode == 0, again.stderr
    assert "micro-batches on each of 2 processes; the run said: the gradient norm is " in again.stdout
    assert "gradient at the log-probs of term sft: nan at [" in again.stdout
    assert "(process " in again.stdout


def test_what_is_no_kept_update_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no update that a run skipped"):
        api.replay(tmp_path / "run" / "skipped" / "step-1", print)
