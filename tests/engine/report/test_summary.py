"""Before, after, change: which changes are marked, and what the verdict says."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.report import synthetic
from wavalign.engine.report.data import read_run
from wavalign.engine.report.plots import Interval
from wavalign.engine.report.summary import Row, decimals, fixed, pairs, rows, verdict


def row(before: Interval | None, after: Interval | None, gold: float | None = 1.0) -> Row:
    ceiling = None if gold is None else Interval(gold, gold, gold)
    return Row("heldout", "value", before, after, ceiling, 10)


def test_rows_take_first_and_last_evaluation(run_folder: Path) -> None:
    accuracy, wer, words = rows(read_run(run_folder))
    assert accuracy.before == Interval(0.25, 0.19, 0.31)
    assert accuracy.after == Interval(0.75, 0.7, 0.8)
    assert accuracy.ceiling == Interval(0.97, 0.96, 0.98)
    assert accuracy.count == 64
    assert accuracy.change == 0.5
    assert (accuracy.apart, accuracy.direction) == (True, "toward")
    assert (wer.name, wer.apart, wer.direction) == ("speech_wer", False, "")
    assert (words.name, words.apart, words.direction) == ("words", True, "away")


@pytest.mark.parametrize(
    ("before", "after", "apart"),
    [
        (Interval(0.2, 0.1, 0.3), Interval(0.5, 0.31, 0.6), True),
        (Interval(0.2, 0.1, 0.3), Interval(0.5, 0.3, 0.6), False),
        (Interval(0.5, 0.31, 0.6), Interval(0.2, 0.1, 0.3), True),
        (Interval(0.2, 0.1, 0.3), None, False),
    ],
)
def test_only_intervals_that_do_not_overlap_are_apart(before: Interval, after: Interval | None, apart: bool) -> None:
    assert row(before, after).apart is apart


def test_without_gold_a_change_has_no_direction() -> None:
    changed = row(Interval(0.2, 0.1, 0.3), Interval(0.5, 0.4, 0.6), gold=None)
    assert changed.apart
    assert changed.direction == ""


def test_first_evaluation_of_a_running_run_stands_before(tmp_path: Path) -> None:
    folder = synthetic.write_run(tmp_path / "run")
    lines = [synthetic.evaluation_line(0, synthetic.BEFORE), synthetic.train_line(1)]
    synthetic.write_lines(folder / "metrics.jsonl", lines)
    run = read_run(folder)
    accuracy = rows(run)[0]
    assert accuracy.before == Interval(0.25, 0.19, 0.31)
    assert accuracy.after is None
    assert accuracy.change is None
    assert "nothing was measured on held-out data both before and after" in verdict(run, rows(run))


def test_evaluation_at_the_end_only_stands_after(tmp_path: Path) -> None:
    folder = synthetic.write_run(tmp_path / "run")
    lines = [synthetic.train_line(1), synthetic.evaluation_line(1, synthetic.AFTER)]
    synthetic.write_lines(folder / "metrics.jsonl", lines)
    accuracy = rows(read_run(folder))[0]
    assert accuracy.before is None
    assert accuracy.after == Interval(0.75, 0.7, 0.8)


def test_verdict_counts_what_moved(run_folder: Path) -> None:
    run = read_run(run_folder)
    assert verdict(run, rows(run)) == (
        "After 100 of 100 steps, 2 of 3 held-out values moved beyond their 95 % intervals: "
        "1 toward the gold answers, 1 away from them."
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("answer_accuracy", "moved beyond its 95 % interval, toward the gold answers."),
        ("words", "moved beyond its 95 % interval, away from the gold answers."),
        ("speech_wer", "did not move beyond its 95 % interval."),
    ],
)
def test_verdict_on_one_value(run_folder: Path, name: str, said: str) -> None:
    run = read_run(run_folder)
    only = [found for found in rows(run) if found.name == name]
    assert verdict(run, only) == f"After 100 of 100 steps, the one held-out value {said}"


def test_pairs_join_by_dialogue(run_folder: Path) -> None:
    first, second = pairs(read_run(run_folder))
    assert (first.dialogue, second.dialogue) == ("d0", "d1")
    assert first.before is not None
    assert first.after is not None
    assert (first.before.step, first.after.step) == (0, 100)
    assert first.before.text == "Spiders live in webs and houses."


def test_lone_late_sample_is_after(run_folder: Path) -> None:
    run = read_run(run_folder)
    late = [sample for sample in run.samples if sample.step == 100]
    assert all(pair.before is None and pair.after is not None for pair in pairs(replace(run, samples=tuple(late))))


@pytest.mark.parametrize(
    ("values", "places"), [([0.25, 0.97], 3), ([9.0, 6.0], 2), ([12.5], 1), ([250.0], 0), ([0.0], 2), ([1e-9], 5)]
)
def test_decimals_give_three_significant_digits(values: list[float], places: int) -> None:
    assert decimals(values) == places


def test_fixed_writes_signs() -> None:
    assert [fixed(0.5, 2, signed=True), fixed(-0.5, 2), fixed(1234.5, 1), fixed(None, 2)] == [
        "+0.50",
        "−0.50",
        "1,234.5",
        "–",
    ]
