"""Several runs on one page: arms, seeds, means."""

import json
from pathlib import Path

import pytest

from tests.engine.report import synthetic
from tests.engine.report.page_reader import Page
from wavalign.engine.report.comparison import arms, write_comparison
from wavalign.engine.report.data import read_run
from wavalign.errors import UsageError


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two arms: one of two seeds, one of one."""
    return [
        synthetic.write_run(tmp_path / "a7"),
        synthetic.write_run(tmp_path / "a8", seed=8, shift=0.04),
        synthetic.write_run(tmp_path / "b7", name="sft-only", shift=-0.3),
    ]


@pytest.fixture
def page(folders: list[Path], tmp_path: Path) -> Page:
    """Their comparison."""
    return Page(write_comparison(folders, tmp_path / "comparison.html"))


def test_runs_that_differ_in_the_seed_are_one_arm(folders: list[Path]) -> None:
    grouped = arms([read_run(folder) for folder in folders])
    assert [(arm.name, len(arm.runs)) for arm in grouped] == [("synthetic-hybrid", 2), ("sft-only", 1)]
    assert grouped[0].colour != grouped[1].colour


def test_one_name_with_two_recipes_is_two_arms(folders: list[Path]) -> None:
    recipe = folders[1] / "recipe.resolved.yaml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("0.8", "0.4"), encoding="utf-8")
    grouped = arms([read_run(folder) for folder in folders[:2]])
    assert [arm.name for arm in grouped] == ["synthetic-hybrid (a7)", "synthetic-hybrid (a8)"]


def test_each_run_has_its_row_and_an_arm_its_mean(page: Page) -> None:
    after = {
        run: [float(cells["after"][f"data-{key}"] or "nan") for key in ("value", "low", "high")]
        for (run, metric), cells in page.cells.items()
        if metric == "answer_accuracy"
    }
    assert after == {
        "synthetic-hybrid, seed 7": [0.75, 0.7, 0.8],
        "synthetic-hybrid, seed 8": pytest.approx([0.79, 0.74, 0.84]),
        "synthetic-hybrid, mean of 2 seeds": pytest.approx([0.77, 0.75, 0.79]),
        "sft-only, seed 7": pytest.approx([0.45, 0.4, 0.5]),
    }
    mean = page.cells["synthetic-hybrid, mean of 2 seeds", "answer_accuracy"]["change"]
    assert float(mean["data-value"] or "nan") == pytest.approx(0.52)
    assert "data-apart" not in mean


def test_curves_of_all_runs_lie_over_one_another(page: Page) -> None:
    charts = {
        (attributes["aria-label"] or "").split(",")[0]: json.loads(attributes["data-series"] or "")
        for attributes in page.all("svg")
        if attributes.get("class") == "chart"
    }
    assert {"reward", "reward/answer", "gate", "gate/raw", "loss/rl", "kl/text", "kl/audio", "truncated"} <= set(charts)
    assert [len(series) for series in charts["reward"]] == [100, 100, 100]
    assert charts["reward"][0] != charts["reward"][1]


def test_page_is_one_file(page: Page) -> None:
    assert page.open == []
    assert all((attributes.get("href") or "#").startswith(("#", "data:")) for _, attributes in page.tags)


def test_one_run_is_no_comparison(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two runs"):
        write_comparison(folders[:1], tmp_path / "comparison.html")
