"""Before, after, change: which changes are marked, and what the verdict says."""

from pathlib import Path

import pytest

from tests.engine.report import synthetic
from wavalign.engine.report.data import read_run
from wavalign.engine.report.plots import Interval
from wavalign.engine.report.summary import Row, decimals, fixed, headline, rows, verdict


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
        "1 toward the gold answers, 1 away from the gold answers."
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


def judged(folder: Path, before: dict[str, str], after: dict[str, str], **more: float) -> dict[str, Row]:
    return {found.name: found for found in rows(read_run(synthetic.judged_run(folder, before, after, **more)))}


def test_before_and_after_are_compared_on_the_same_items(tmp_path: Path) -> None:
    """Ten items won and none lost, among 100, is shown although both intervals are 0 to 1."""
    before, after = "1" * 50 + "0" * 50, "1" * 60 + "0" * 40
    found = judged(tmp_path / "run", {"text_right": before}, {"text_right": after})["text_right"]
    assert found.paired is not None
    assert (found.paired.only_a, found.paired.only_b) == (10, 0)
    assert found.p == pytest.approx(2 / 2**10)
    assert (found.apart, found.direction) == (True, "toward")
    mixed = judged(tmp_path / "mixed", {"text_right": before}, {"text_right": "0" * 20 + "1" * 60 + "0" * 20})
    assert mixed["text_right"].change == pytest.approx(0.1)
    assert not mixed["text_right"].apart


def test_p_is_corrected_for_all_values_that_count(tmp_path: Path) -> None:
    """Six won and none lost has p = 1/32: shown when looked at alone, not beside four other values."""
    six = ("0" * 20, "1" * 6 + "0" * 14)
    alone = judged(tmp_path / "alone", {"text_a": six[0]}, {"text_a": six[1]})
    assert alone["text_a"].apart
    names = [f"text_{letter}" for letter in "abcde"]
    many = judged(
        tmp_path / "many",
        dict.fromkeys(names, six[0]) | {"text_a/kind=x": six[0]},
        dict.fromkeys(names, six[1]) | {"text_a/kind=x": six[1]},
    )
    assert many["text_a"].p == pytest.approx(5 / 32)
    assert not many["text_a"].apart
    # A breakdown is no further value; it is corrected among breakdowns.
    assert many["text_a/kind=x"].p == pytest.approx(1 / 32)


def test_what_is_the_same_everywhere_does_not_count(tmp_path: Path) -> None:
    run = read_run(
        synthetic.judged_run(
            tmp_path / "run",
            {"text_right": "0" * 20, "well_formed": "1" * 20, "style_told": "1" * 20},
            {"text_right": "1" * 20, "well_formed": "1" * 20, "style_told": "1" * 20},
        )
    )
    assert verdict(run, rows(run)) == (
        "After 100 of 100 steps, the one held-out value moved on the same items, toward the gold answers. "
        "Not counted: 2 values that are the same for every item, before and after."
    )
    assert [found.name for found in headline(rows(run), 4)] == ["text_right"]


def test_the_headline_says_one_value_of_every_metric(tmp_path: Path) -> None:
    names = ["text_right", "text_more", "heard_right", "style_right", "style_right/style=sad"]
    run = read_run(synthetic.judged_run(tmp_path / "run", dict.fromkeys(names, "0011"), dict.fromkeys(names, "0111")))
    assert [found.name for found in headline(rows(run), 4)] == ["text_right", "heard_right", "style_right"]
    assert len(headline(rows(run), 2)) == 2


def test_gold_answers_that_are_all_wrong_are_no_ceiling(tmp_path: Path) -> None:
    found = judged(tmp_path / "run", {"heard_right": "0" * 20}, {"heard_right": "1" * 20}, gold=0.0)["heard_right"]
    assert found.apart
    assert (found.gold_fails, found.drawn_ceiling, found.direction) == (True, None, "")
    # An error rate of 0 is the best there is: its items are no shares of right and wrong.
    rate = row(Interval(0.5, 0.4, 0.6), Interval(0.2, 0.1, 0.3), gold=0.0)
    assert (rate.gold_fails, rate.direction) == (False, "toward")


def test_beyond_the_gold_answers_is_not_away_from_them() -> None:
    crossed = row(Interval(0.6, 0.5, 0.65), Interval(0.95, 0.9, 1.0), gold=0.75)
    assert crossed.direction == "past"


def test_a_value_that_no_item_has_is_not_measured(tmp_path: Path) -> None:
    found = judged(tmp_path / "run", {"text_right": "----"}, {"text_right": "01--"})["text_right"]
    assert (found.before, found.unmeasured, found.change) == (None, (True, False), None)
    assert found.after is not None and found.after.value == 0.5
