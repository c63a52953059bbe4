"""Runs in fp16: the scale is logged, overflows are counted apart, and a resume goes on with the scale there was."""

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.e2e.runs import lines
from tests.engine.run.test_skipped import Heard
from tests.engine.run.test_trainer import assert_resumes, run
from tests.toy.compiled import Change, compiled, only_stage, put
from wavalign.engine.backends.base import Backend
from wavalign.engine.backends.loss_scale import INITIAL_POWER
from wavalign.errors import PreflightError

FP16: tuple[Change, ...] = (put("runtime.precision", "fp16"), put("steps", 5), put("batch.micro_batch", 4))
FIRST = 2.0**INITIAL_POWER
ENGINES: list[Any] = [
    {"type": "plain"},
    *(pytest.param({"type": "deepspeed", "zero": zero}, marks=pytest.mark.slow) for zero in (0, 2, 3)),
]


@pytest.fixture(autouse=True)
def any_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed asks for instructions that torch does without."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.accelerator import get_accelerator

    monkeypatch.setattr(get_accelerator(), "is_fp16_supported", lambda: True)


def overflowing(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Let the gradient of the `at`-th backward pass be too large, the loss being finite."""
    original, seen = Backend.backward, 0

    def backward(self: Backend, loss: Tensor) -> None:
        nonlocal seen
        seen += 1
        original(self, loss * 1e38 if seen == at else loss)

    monkeypatch.setattr(Backend, "backward", backward)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda each: f"{each['type']}{each.get('zero', '')}")
def test_an_overflow_is_no_skipped_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: dict[str, Any]
) -> None:
    overflowing(monkeypatch, 7)
    heard = Heard()
    found = run(tmp_path, *FP16, put("runtime.engine", engine), put("runtime.non_finite_limit", 1), observer=heard)
    train = [line for line in lines(found / "metrics.jsonl") if line["split"] == "train"]
    assert [line["overflowed_updates"] for line in train].count(1) >= 1
    assert train[1]["overflowed_updates"] == 1 and "grad_norm" not in train[1]
    assert train[0]["loss_scale"] == FIRST and train[2]["loss_scale"] <= FIRST / 2
    assert all("skipped_updates" not in line for line in train)
    assert not (found / "skipped").exists() and not [text for text in heard.said if "skipped" in text]


@pytest.mark.parametrize("engine", ENGINES, ids=lambda each: f"{each['type']}{each.get('zero', '')}")
def test_a_resume_has_the_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: dict[str, Any]) -> None:
    """Every update overflows at the first scale but the first; what is taken up later must have the next one."""
    original, seen = Backend.backward, dict[int, int]()

    def backward(self: Backend, loss: Tensor) -> None:
        seen[id(self)] = seen.get(id(self), 0) + 1
        original(self, loss * 1e38 if self.loss_scale == FIRST and seen[id(self)] >= 6 else loss)

    monkeypatch.setattr(Backend, "backward", backward)
    changes = (*FP16, put("runtime.engine", engine))
    assert_resumes(tmp_path, *changes, monkeypatch=monkeypatch)
    train = [line for line in lines(tmp_path / "whole" / "run" / "metrics.jsonl") if line["split"] == "train"]
    assert [line["overflowed_updates"] for line in train][:2] == [0, 1]
    assert all(line["loss_scale"] < FIRST for line in train[2:])


def test_the_plan_says_float16(tmp_path: Path) -> None:
    fp16 = put("runtime.precision", "fp16")
    stages = [
        only_stage(compiled(tmp_path, fp16, put("runtime.engine", {"type": "deepspeed", "zero": zero}))).deepspeed
        for zero in (0, 2)
    ]
    assert stages[0] is not None and stages[1] is not None
    assert not stages[0]["fp16"]["enabled"] and stages[0]["torch_autocast"] == {"enabled": False, "dtype": "float16"}
    assert stages[1]["fp16"]["enabled"] and not stages[1]["bf16"]["enabled"]
    assert stages[1]["fp16"]["loss_scale"] == 0, "dynamic"


def test_a_device_without_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deepspeed.accelerator import get_accelerator

    monkeypatch.setattr(get_accelerator(), "is_fp16_supported", lambda: False)
    with pytest.raises(PreflightError, match="do not compute in fp16 on this device"):
        run(tmp_path, *FP16, put("runtime.engine", {"type": "deepspeed", "zero": 2}))
