"""Where the time of a run went, by hand on synthetic lines."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.report.synthetic import write_run
from wavalign.engine.report.data import RunData, read_run
from wavalign.engine.report.page import render_report
from wavalign.engine.report.speed import OperatorRow, speeds


@pytest.fixture
def run(tmp_path: Path) -> RunData:
    return read_run(write_run(tmp_path / "run", steps=9))


def test_operators_are_medians_without_the_first_step(run: RunData) -> None:
    """Of a step of 1.5 s; what takes less than a two-hundredth of it stands together."""
    (found,) = speeds(run)
    assert (found.stage, found.steps, found.seconds, found.mfu) == ("align", 8, 1.5, 0.375)
    assert [(row.name, row.seconds) for row in found.operators] == [
        ("rollout", 0.9), ("backward", 0.3), ("2 others", pytest.approx(0.003)),
    ]  # fmt: skip
    assert found.operators[0] == OperatorRow("rollout", 0.9, found.operators[0].share)
    assert found.operators[0].share == pytest.approx(0.6)
    assert dict(found.rates)["text tokens learned from"] == 2000.0


def test_the_page_has_the_table(run: RunData) -> None:
    page = render_report(run)
    assert "Where the time went" in page and "37.5 % of the devices" in page
    assert '<td class="n">900</td><td class="n">60.0 %</td>' in page


def test_runs_from_before_have_none(run: RunData) -> None:
    """Lines without operators give no table, and the page does not speak of it."""
    lines = tuple(
        replace(line, values={key: value for key, value in line.values.items() if not key.startswith("operator/")})
        for line in run.lines
    )
    old = replace(run, lines=lines)
    assert speeds(old) == []
    assert "Where the time went" not in render_report(old)
