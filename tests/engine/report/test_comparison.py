"""Several runs on one page: arms, seeds, means."""

import json
import re
from pathlib import Path

import pytest

from tests.engine.report import synthetic
from tests.engine.report.page_reader import Page
from wavalign.engine.report.comparison import against, arms, blocks, compared, write_comparison
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


def test_arms_are_compared_on_the_items_and_seeds_they_share(tmp_path: Path) -> None:
    low, high = "1" * 50 + "0" * 50, "1" * 70 + "0" * 30
    folders = [
        synthetic.judged_run(tmp_path / f"{name}{seed}", {"text_right": low}, {"text_right": end}, name=name, seed=seed)
        for name, end in (("better", high), ("worse", low))
        for seed in (1, 2)
    ]
    page = Page(write_comparison(folders, tmp_path / "comparison.html"))
    said = re.search(
        r"better better than worse by 0\.20 \[0\.1\d, 0\.2\d\], p < 0\.001 \(100 items, 2 seeds\)", page.words
    )
    assert said is not None, page.words
    assert "What text_right is." in page.words


def test_no_difference_is_said_and_what_never_differs_is_not(tmp_path: Path) -> None:
    ends = {"a": {"text_right": "0111", "formed": "1111"}, "b": {"text_right": "1011", "formed": "1111"}}
    folders = [synthetic.judged_run(tmp_path / name, end, end, name=name) for name, end in ends.items()]
    grouped = arms([read_run(folder) for folder in folders])
    found = {block.name: block for block in compared(blocks(grouped), grouped)}
    assert found["formed"].verdicts == ()
    assert [said.split(":")[0] for said in found["text_right"].verdicts] == ["no difference shown between a and b"]
    assert against(grouped[0], grouped[1], "heldout", "never measured") is None


def test_runs_of_other_seeds_are_not_paired(tmp_path: Path) -> None:
    end = {"text_right": "0111"}
    folders = [synthetic.judged_run(tmp_path / name, end, end, name=name, seed=s) for name, s in (("a", 1), ("b", 2))]
    first, second = arms([read_run(folder) for folder in folders])
    assert against(first, second, "heldout", "text_right") is None


def test_the_same_questions_stand_side_by_side(page: Page) -> None:
    cards = [attributes for attributes in page.all("article") if attributes.get("class") == "sample"]
    assert [card["aria-label"] for card in cards] == ["Dialogue d0", "Dialogue d1"]
    assert page.words.count("How many legs does a spider have?") == 1
    assert page.words.count("It is Paris.") == 3
    assert len(page.all("audio")) == 2 * (1 + 3 + 1)


def test_page_is_one_file(page: Page) -> None:
    assert page.open == []
    assert all((attributes.get("href") or "#").startswith(("#", "data:")) for _, attributes in page.tags)


def test_one_run_is_no_comparison(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two runs"):
        write_comparison(folders[:1], tmp_path / "comparison.html")
