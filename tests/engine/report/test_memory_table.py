"""The estimate beside what was measured, by hand on synthetic lines; and on the page of a run."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.report.synthetic import write_run
from tests.engine.run.test_trainer import run as run_toy
from tests.toy.compiled import put
from wavalign.engine.compile.plan import Memory, MemoryRow
from wavalign.engine.report.data import RunData, read_run
from wavalign.engine.report.memory import PhaseMemory, memories
from wavalign.engine.report.page import render_report

ROWS = (
    MemoryRow(name="weights", bytes=100, phase="held"),
    MemoryRow(name="cache", bytes=7, phase="collect"),
    MemoryRow(name="gradients", bytes=30, phase="train"),
    MemoryRow(name="activations", bytes=50, phase="learn"),
    MemoryRow(name="roots", bytes=11, phase="update"),
)


@pytest.fixture
def run(tmp_path: Path) -> RunData:
    folder = write_run(tmp_path / "run", steps=3)
    (folder / "memory.json").write_text(json.dumps({"align": Memory(rows=ROWS, capacity=0).model_dump(mode="json")}))
    found = read_run(folder)
    peaks = {"memory/sampling_bytes": 120.0, "memory/scoring_bytes": 90.0, "memory/backward_bytes": 170.0}
    lines = [
        replace(line, values={key: value for key, value in line.values.items() if not key.startswith("memory/")})
        for line in found.lines
    ]
    first = next(line for line in lines if line.split == "train")
    return replace(found, lines=(*lines, replace(first, values={**first.values, **peaks})))


def test_by_hand(run: RunData) -> None:
    notes: list[str] = []
    (found,) = memories(run, notes)
    assert found.phases == (
        PhaseMemory("sampling", 107, 120),
        PhaseMemory("scoring", None, 90),
        PhaseMemory("backward", 180, 170),
        PhaseMemory("fullest moment", 180, 170),
    )
    assert [phase.difference for phase in found.phases] == [13, None, -10, -10]
    assert [row.name for row in found.parts] == ["weights", "activations", "gradients", "roots", "cache"]
    assert not notes


def test_a_file_that_cannot_be_read_is_a_note(run: RunData) -> None:
    (run.folder / "memory.json").write_text("{")
    assert "memory.json is damaged" in render_report(run)
    (run.folder / "memory.json").unlink()
    page = render_report(run)
    assert "Memory, estimated" not in page and "damaged" not in page


def test_the_page_of_a_run_has_it(tmp_path: Path) -> None:
    folder = run_toy(tmp_path, put("steps", 1), put("runtime.report", True))
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Memory, estimated and measured" in page
    assert re.search(r"fullest moment</th><td class=.n.>[0-9.,]+</td><td class=.n.>[0-9.,]+</td>", page)
