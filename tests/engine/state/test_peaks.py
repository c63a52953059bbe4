"""Peaks of memory by phase."""

from pathlib import Path

import pytest
import torch

from tests.e2e.runs import lines
from tests.engine.run.test_trainer import run
from tests.toy.compiled import put
from wavalign.engine.state import peaks
from wavalign.engine.state.peaks import Peaks, forget_highest, highest
from wavalign.engine.step.executor import PHASES

MIB = 2**20
CPU = torch.device("cpu")


def test_every_phase_has_its_own_highest() -> None:
    found = Peaks(CPU)
    found.switch("small")
    found.switch("large")
    held = torch.ones(128 * MIB // 4)
    del held
    found.switch("small")
    found.switch("small")
    found.switch("")
    assert set(found.bytes) == {"small", "large"}
    assert 120 * MIB < found.bytes["large"] - found.bytes["small"] < 140 * MIB


def test_the_highest_of_all_outlives_the_phases() -> None:
    forget_highest(CPU)
    before = highest(CPU)
    found = Peaks(CPU)
    found.switch("large")
    held = torch.ones(128 * MIB // 4)
    del held
    found.switch("small")
    found.switch("")
    assert 120 * MIB < highest(CPU) - before < 140 * MIB
    forget_highest(CPU)
    assert highest(CPU) - before < 20 * MIB


def test_nothing_is_said_where_nothing_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peaks, "_RESET", tmp_path / "no" / "such" / "file")
    found = Peaks(CPU)
    found.switch("large")
    found.switch("")
    assert found.bytes == {}


def test_a_run_logs_them(tmp_path: Path) -> None:
    done = run(tmp_path, put("steps", 2), put("evaluation.every", 0))
    steps = [line for line in lines(done / "metrics.jsonl") if line["split"] == "train"]
    assert len(steps) == 2
    for line in steps:
        found = {key: value for key, value in line.items() if key.startswith("memory/")}
        assert set(found) == {f"memory/{phase}_bytes" for phase in PHASES}
        assert all(50 * MIB < value < 100 * 1024 * MIB for value in found.values())
