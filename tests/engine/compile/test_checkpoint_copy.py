"""The estimate of what a checkpoint beside the steps takes, against what one writes."""

from pathlib import Path

import pytest
from safetensors import safe_open

from tests.engine.compile.test_memory import ADAPTED, FULL, LORA, SIZES, estimate
from tests.toy.compiled import Change, compiled, put
from wavalign.engine import api
from wavalign.engine.compile.adapter import WeightCounts
from wavalign.engine.compile.plan import MemoryRow

ASYNC = {"async_checkpoints": True}


def rows(found: tuple[MemoryRow, ...]) -> list[MemoryRow]:
    return [row for row in found if row.name == "checkpoint copy"]


@pytest.mark.parametrize(
    ("engine", "changes", "weights", "size"),
    [
        ({}, (), FULL, 12_000_000),
        ({}, (ADAPTED,), LORA, 12 * 50_000 + 4 * 1_000_000),
        ({"type": "deepspeed", "zero": 2}, (), FULL, 3_000_000),
        ({"type": "deepspeed", "zero": 2}, (ADAPTED,), LORA, 3 * 50_000 + 4 * 1_000_000),
        ({"type": "deepspeed", "zero": 3}, (ADAPTED,), LORA, 3 * 50_000 + 1_000_000),
    ],
)
def test_by_hand(
    tmp_path: Path, engine: dict[str, object], changes: tuple[Change, ...], weights: WeightCounts, size: int
) -> None:
    """On four processes; twelve bytes a trained weight, what is frozen as it is held."""
    runtime = {"processes": 4, **({"engine": engine} if engine else {})}
    (found,) = rows(estimate(tmp_path, {**runtime, **ASYNC}, *changes, weights=weights, sizes=SIZES).rows)
    assert found.bytes == size
    assert not rows(estimate(tmp_path, runtime, *changes, weights=weights, sizes=SIZES).rows)


def test_on_a_gpu_it_lies_in_host_memory(tmp_path: Path) -> None:
    (found,) = rows(estimate(tmp_path, {"device": "auto", "precision": "bf16", **ASYNC}).rows)
    assert found.bytes == 0 and "0.01 GiB in host memory" in found.note


def test_as_large_as_what_is_written(tmp_path: Path) -> None:
    """The file holds the copy: its tensors, but for the optimiser's counters of updates."""
    plan = compiled(
        tmp_path, put("runtime.async_checkpoints", True), put("steps", 1), put("runtime.checkpoint_every", 1)
    )
    (estimated,) = rows(dict(api.preflight(plan).memory)[plan.stages[0].name].rows)
    api.run(plan)
    with safe_open(tmp_path / "run/checkpoints/step-1/training.safetensors", "pt") as file:
        held = sum(file.get_tensor(key).nbytes for key in file.keys() if not key.startswith("step/"))  # noqa: SIM118
    assert estimated.bytes == held
