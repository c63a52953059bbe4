"""Rounds side by side: which value is a round's, what changed, which round is taken up, and the page of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.engine.report import synthetic
from tests.engine.report.page_reader import Page
from wavalign.engine.report.data import read_run
from wavalign.engine.report.page import write_report
from wavalign.engine.report.pictures import MOST_PICTURES, picture_rows, scatter
from wavalign.engine.report.rounds import Rounds, all_rounds

STOP = {"metric": "heldout/wer", "mode": "min", "patience": 1, "min_delta": 0.0}
ITEMS = 40


def line(stage: str, step: int, wer: float, *, split: str = "heldout", **more: float) -> dict[str, Any]:
    values = {"wer": wer, "wer/low": wer - 0.05, "wer/high": wer + 0.05, "wer/count": ITEMS, "wer/ceiling": 0.1}
    return {"stage": stage, "step": step, "split": split, "time": "2026-01-05T10:00:00Z", **values, **more}


def outcomes(stage: str, step: int, wrong: int) -> list[dict[str, Any]]:
    """`wrong` of the items have an error, all of one word; the picture moves with them."""
    lines = []
    for item in range(ITEMS):
        one = synthetic.outcome(step, item, "said", values={"wer": float(item < wrong)})
        points = {"wer": {"gold": [item, 0.0], "sampled": [item, float(wrong)]}}
        lines.append({**one, "stage": stage, "points": points})
    return lines


def write(
    folder: Path, *, stop: dict[str, Any] | None = STOP, skipped: bool = False, counts: bool = True, start: bool = False
) -> Path:
    """Two rounds of three, after a stage that measured: 20, 8 and 12 of 40 items wrong."""
    synthetic.write_run(folder)
    stages: list[dict[str, Any]] = [{"name": "look", "stage": {"type": "evaluate"}}]
    for number in (1, 2, 3):
        about = {"repeat": "round", "number": number, "of": 3, "stop_early": stop}
        for name, kind, steps in (("sample", "generate", 9), ("train", "train", 5), ("measure", "evaluate", 9)):
            inner = {"type": kind, "steps": steps, "round": about}
            stages.append({"name": f"round-{number}.{name}", "stage": inner})
    plan = {"name": "rounds", "seed": 0, "fingerprint": "x", "stages": stages}
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    found = [("look", 0, 20), ("round-1.measure", 5, 8), ("round-2.measure", 10, 12)]
    first = [("round-1.train", 0, 20)] if start else []
    found = [*first, *(each for each in found if not (start and each[0] == "look"))]
    train = [{**synthetic.train_line(step), "stage": f"round-{1 + (step > 5)}.train"} for step in range(1, 11)]
    lines = [line(stage, step, wrong / ITEMS) for stage, step, wrong in found]
    synthetic.write_lines(folder / "metrics.jsonl", [*train, *lines])
    synthetic.write_lines(folder / "evaluation.jsonl", [one for each in found for one in outcomes(*each)])
    synthetic.write_lines(folder / "rollouts.jsonl", [])
    said = {"wer": {"metric": "wer", "unit": "errors a word", "better": "less", "says": "Errors."}}
    (folder / "measures.json").write_text(json.dumps(said), encoding="utf-8")
    for stage in stages:
        place = folder / "stages" / stage["name"]
        place.mkdir(parents=True)
        mark = {"model": None, "skipped": True} if skipped and "-3." in stage["name"] else {"model": None}
        (place / "complete.json").write_text(json.dumps(mark), encoding="utf-8")
        if counts and stage["name"].endswith(".sample") and "-3." not in stage["name"]:
            made = {
                "files": ["x"],
                "answers": 60,
                "empty": 0,
                "left_out": {"equal": 3},
                "seed": 7,
                "round": 1,
                "sampling": {"top_k": 5},
            }
            (place / "dataset.json").write_text(json.dumps(made), encoding="utf-8")
    return folder


def only(folder: Path) -> Rounds:
    (found,) = all_rounds(read_run(folder))
    return found


def test_every_round_has_its_value_and_its_change(tmp_path: Path) -> None:
    found = only(write(tmp_path / "run", skipped=True))
    assert [moment.title for moment in found.moments] == ["before", "round 1", "round 2"]
    (row,) = found.rows
    values = [cell.after.value for cell in row.cells if cell.after is not None]
    assert values == [0.5, 0.2, 0.3] and row.gold is not None and row.gold.value == 0.1
    before, first, second = row.cells
    assert before.change is None and first.change == pytest.approx(-0.3) and second.change == pytest.approx(0.1)
    # 12 items became right and none wrong, then 4 wrong and none right; p of McNemar's test, twice looked at.
    assert first.paired is not None and first.paired.p == pytest.approx(2 * 0.5**12)
    assert first.p == pytest.approx(4 * 0.5**12) and first.apart
    assert second.paired is not None and second.paired.p == pytest.approx(0.125) and not second.apart
    assert (first.direction, second.direction) == ("toward", "")


def test_the_best_round_is_taken_up(tmp_path: Path) -> None:
    found = only(write(tmp_path / "run", skipped=True))
    assert found.said == "2 of 3 rounds, ended early; round 1 has the lowest heldout/wer and is taken up."
    assert [moment.taken for moment in found.moments] == [False, True, False]
    upward = only(write(tmp_path / "up", stop={**STOP, "mode": "max"}))
    assert upward.said == "2 of 3 rounds; round 2 has the highest heldout/wer and is taken up."
    slow = only(write(tmp_path / "slow", stop={**STOP, "mode": "max", "min_delta": 0.2}))
    assert slow.said.startswith("2 of 3 rounds; round 1 has")
    free = only(write(tmp_path / "free", stop=None))
    assert free.said == "2 of 3 rounds; each starts from the one before." and not any(x.taken for x in free.moments)
    other = only(write(tmp_path / "other", stop={**STOP, "metric": "heldout/other"}))
    assert other.said == "2 of 3 rounds; heldout/other was not measured yet."


def test_what_the_first_round_measured_at_its_start_is_before(tmp_path: Path) -> None:
    (row,) = only(write(tmp_path / "run", start=True)).rows
    assert [cell.after and cell.after.value for cell in row.cells] == [0.5, 0.2, 0.3]
    assert row.cells[1].paired is not None, "its items are those of the split's first evaluation"


def test_without_a_measurement_before_there_is_no_such_column(tmp_path: Path) -> None:
    folder = write(tmp_path / "run")
    kept = [each for each in (folder / "metrics.jsonl").read_text().splitlines() if '"look"' not in each]
    (folder / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    found = only(folder)
    assert [moment.title for moment in found.moments] == ["round 1", "round 2"]
    assert [len(row.cells) for row in found.rows] == [2]
    assert [[x for x, _ in chart.curves[0].points] for chart in found.charts] == [[1.0, 2.0]]


def test_the_value_of_a_round_is_of_the_weights_that_were_left(tmp_path: Path) -> None:
    """The best weights of a stage are not its last."""
    folder = write(tmp_path / "run")
    lines = [line("round-1.train", 3, 0.15), line("round-1.train", 5, 0.4)]
    kept = [each for each in (folder / "metrics.jsonl").read_text().splitlines() if '"round-1.measure"' not in each]
    (folder / "metrics.jsonl").write_text("".join(f"{each}\n" for each in (*kept, *map(json.dumps, lines))))
    place = folder / "stages/round-1.train/complete.json"
    (cells,) = ([cell.after and cell.after.value for cell in row.cells] for row in only(folder).rows)
    assert cells == [0.5, 0.4, 0.3]
    place.write_text(json.dumps({"model": {"step": 3}}))
    (cells,) = ([cell.after and cell.after.value for cell in row.cells] for row in only(folder).rows)
    assert cells == [0.5, 0.15, 0.3]


def test_what_was_written_is_counted_by_round(tmp_path: Path) -> None:
    found = only(write(tmp_path / "run"))
    assert [(each.stage, each.name, each.counts) for each in found.written] == [
        ("sample", "answers", (60, 60)),
        ("sample", "left_out: equal", (3, 3)),
    ]
    assert only(write(tmp_path / "none", counts=False)).written == ()


def test_pictures_stand_side_by_side(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "run"))
    (row,) = picture_rows(run)
    assert (row.name, row.clouds) == ("wer", (("gold", "gold"), ("sampled", "c2")))
    assert [each.title for each in row.pictures] == ["before training", "round 1, measure", "round 2, measure"]
    assert [each.caption for each in row.pictures] == [
        "0.500 (0.450 to 0.550)", "0.200 (0.150 to 0.250)", "0.300 (0.250 to 0.350)"
    ]  # fmt: skip
    assert all(each.svg.count("<circle") == 2 * ITEMS for each in row.pictures)


def test_a_picture_has_one_scale_for_both_directions() -> None:
    drawn = scatter(
        {"gold": [(0.0, 0.0), (10.0, 0.0)], "sampled": [(5.0, 5.0)]}, {"gold": "gold", "sampled": "c2"}, "x"
    )
    assert 'cx="8.0" cy="161.0"' in drawn and 'cx="212.0" cy="161.0"' in drawn and 'cx="110.0" cy="59.0"' in drawn
    assert scatter({"gold": []}, {"gold": "gold"}, "x") == ""
    assert scatter({"gold": [(1.0, 1.0)]}, {"gold": "gold"}, "<b>").count("&lt;b&gt;") == 2


def test_many_pictures_are_thinned_and_keep_both_ends(tmp_path: Path) -> None:
    folder = write(tmp_path / "run")
    more = [one for step in range(20) for one in outcomes(f"s{step}", step, step % 3)]
    synthetic.write_lines(folder / "evaluation.jsonl", more)
    (row,) = picture_rows(read_run(folder))
    assert len(row.pictures) == MOST_PICTURES
    assert (row.pictures[0].title, row.pictures[-1].title) == ("before training", "s19, step 19")


def test_the_page_shows_them(tmp_path: Path) -> None:
    page = Page(write_report(write(tmp_path / "run", skipped=True)))
    assert "round 1 has the lowest heldout/wer and is taken up" in page.words
    assert "What each round learned from" in page.words and "left out: equal" in page.words
    assert [each["data-value"] for each in page.all("td") if each.get("data-label") == "value"] == ["0.5", "0.2", "0.3"]
    assert sum(each.get("class") == "cloud" for each in page.all("svg")) == 3
    assert any(each.get("data-unit") == "round" for each in page.all("svg"))


def test_a_run_without_rounds_has_no_such_section(run_folder: Path) -> None:
    assert all_rounds(read_run(run_folder)) == [] and picture_rows(read_run(run_folder)) == []
    assert 'id="rounds"' not in write_report(run_folder).read_text()


@pytest.mark.parametrize(
    "points",
    [{"wer": {"gold": [1.0]}}, {"wer": {"gold": "here"}}, {"wer": [1, 2]}, {"wer": {"gold": [1.0, float("nan")]}}],
)
def test_a_place_that_is_none_is_noted(tmp_path: Path, points: Any) -> None:
    folder = write(tmp_path / "run")
    synthetic.write_lines(folder / "evaluation.jsonl", [{**outcomes("look", 0, 1)[0], "points": points}])
    assert "evaluation.jsonl, line 1 is no outcome of an item; it was left out." in read_run(folder).notes
