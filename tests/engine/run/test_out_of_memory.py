"""A micro-batch that does not fit: halved once for a stage, on every rank, with the numbers of one that did fit."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.e2e.runs import lines, wavalign
from tests.engine.run.test_skipped import Heard
from tests.engine.run.test_trainer import run
from tests.toy.compiled import Change, put
from tests.toy.world import toy_recipe, write_recipe
from wavalign.engine.run.halving import halve, leave_mark, most_rows
from wavalign.errors import OutOfMemoryError
from wavalign.plugins.guard import is_out_of_memory

SHORT: tuple[Change, ...] = (
    put("steps", 3),
    put("objective.terms", {"sft": {"loss": "cross_entropy", "tokens": "all"}}),
    put("objective.gate", None),
    put("batch", {"demonstrations": 8, "micro_batch": 8}),
    put("optim.learning_rate", 0.01),
    put("optim.epsilon", 1e-4),  # with less, gradients that are rounding alone move weights as far as others do
)
ENGINES: list[Any] = [
    {"type": "plain"},
    *(pytest.param({"type": "deepspeed", "zero": zero}, marks=pytest.mark.slow) for zero in (0, 2, 3)),
]


def greedy(rows: int, rank: int = 0) -> Change:
    return put("objective.terms.sft.loss", {"type": "toy_greedy", "rows": rows, "rank": rank})


def assert_close(found: Path, wanted: Path) -> None:
    """The same numbers, to what the order of sums makes of them."""
    ours, theirs = (
        [line for line in lines(each / "metrics.jsonl") if line["split"] == "train"] for each in (found, wanted)
    )
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], abs=1e-6)
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-5)
    ours_, theirs_ = (load_file(each / "model" / "model.safetensors") for each in (found, wanted))
    assert all(ours_[name].allclose(theirs_[name], rtol=0, atol=1e-6) for name in theirs_)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda each: f"{each['type']}{each.get('zero', '')}")
def test_halves_give_what_the_whole_gives(tmp_path: Path, engine: dict[str, Any]) -> None:
    changes = (*SHORT, put("runtime.engine", engine))
    heard = Heard()
    whole = run(tmp_path / "whole", *changes)
    found = run(tmp_path / "found", *changes, greedy(4), observer=heard)
    assert_close(found, whole)
    (said,) = [text for text in heard.said if "out of memory" in text]
    assert "out of memory in a micro-batch of 8 rows, " in said
    assert "at step 1 of stage 'train'; the most that this process held was" in said
    assert "from here on micro-batches of stage train have at most 4 rows" in said
    assert json.loads((found / "micro_batches.json").read_text()) == {"train": 4}
    assert not list(found.glob(".out-of-memory-*"))


def test_halves_that_do_not_fit_either_end_the_run_with_estimate_and_peak(tmp_path: Path) -> None:
    with pytest.raises(
        OutOfMemoryError, match=r"a micro-batch of 4 rows.* its micro-batches were halved before"
    ) as found:
        run(tmp_path, *SHORT, greedy(3))
    beside = re.search(
        r"; ([\d,]+) MiB were estimated, ([\d,]+) MiB were measured, of [\d,]+ MiB$", found.value.message
    )
    assert beside is not None
    assert int(beside[1].replace(",", "")) >= 1
    assert int(beside[2].replace(",", "")) == pytest.approx(found.value.peak_bytes / 2**20, abs=1)
    assert found.value.peak_bytes > 2**20


def test_one_row_cannot_be_halved(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemoryError, match=r"of 1 rows.* one row cannot be halved"):
        run(tmp_path, *SHORT, put("batch.micro_batch", 1), greedy(0))


def test_only_memory_is_taken_for_memory(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**50)
    assert is_out_of_memory(refused.value) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes differ"))


def test_the_smallest_of_several_marks_counts_and_a_stage_is_halved_once(tmp_path: Path) -> None:
    for rank, rows in enumerate((8, 5)):
        leave_mark(tmp_path, rank, OutOfMemoryError("too much", stage="a", rows=rows, peak_bytes=2**30))
    assert "at most 3 rows" in halve(tmp_path)
    assert (most_rows(tmp_path, "a"), most_rows(tmp_path, "b")) == (3, None)
    assert halve(tmp_path) == ""
    leave_mark(tmp_path, 0, OutOfMemoryError("too much", stage="b", rows=2, peak_bytes=1))
    halve(tmp_path)
    assert (most_rows(tmp_path, "a"), most_rows(tmp_path, "b")) == (3, 1)
    leave_mark(tmp_path, 0, OutOfMemoryError("too much", stage="a", rows=3, peak_bytes=1))
    with pytest.raises(OutOfMemoryError, match="halved before"):
        halve(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [{"type": "plain"}, {"type": "deepspeed", "zero": 3}], ids=["plain", "zero3"])
def test_one_of_two_processes_runs_out(tmp_path: Path, engine: dict[str, Any]) -> None:
    """The second one, in the middle of what both do together: both begin anew with halves."""
    said = ""
    for name, change in (("whole", put("seed", 3)), ("found", greedy(2, rank=1))):
        (tmp_path / name).mkdir()
        recipe = toy_recipe(tmp_path / name, engine=engine, processes=2)
        for each in (*SHORT, change):
            each(recipe)
        done = wavalign("run", write_recipe(tmp_path / name, recipe))
        assert done.returncode == 0, done.stderr
        said = done.stderr
    assert "from here on micro-batches of stage train have at most 2 rows" in said
    assert_close(tmp_path / "found" / "run", tmp_path / "whole" / "run")
