"""Which charts a run's keys give."""

from pathlib import Path

import pytest

from tests.engine.report import synthetic
from wavalign.engine.report.curves import sections
from wavalign.engine.report.data import read_run
from wavalign.engine.report.plots import Chart


def charts(folder: Path) -> dict[str, Chart]:
    return {chart.title: chart for section in sections(read_run(folder)) for chart in section.charts}


def test_every_logged_value_has_its_chart(run_folder: Path) -> None:
    found = charts(run_folder)
    shown = {curve.label for chart in found.values() for curve in chart.curves}
    assert {"λ in use (moving average)", "λ raw", "direction", "information", "text", "audio", "marks"} <= shown
    assert set(found) == {
        "Reward and its parts", "Spread within groups", "Rewards that failed", "Gate λ", "What moves the gate",
        "Shares of the terms", "Total loss", "Loss of rl", "Loss of sft", "rl: ratio", "KL to the reference",
        "Length of answers", "Answers cut off", "Trained tokens", "Gradient norm", "Learning rate", "Seconds per step",
        "Tokens per second", "Tokens per second by kind", "Use of the devices",
    }  # fmt: skip


def test_curve_holds_the_logged_numbers(run_folder: Path) -> None:
    gate = {curve.label: curve.points for curve in charts(run_folder)["Gate λ"].curves}
    assert gate["λ in use (moving average)"][9] == pytest.approx((10.0, 0.15))
    assert gate["λ raw"][9] == (10.0, synthetic.train_line(10, wobble=7)["gate/raw"])


def test_what_a_gate_reads_stays_off_the_scale_of_its_factors(run_folder: Path) -> None:
    lines = [synthetic.train_line(step) | {"gate/best_reward": 4.5} for step in (1, 2)]
    synthetic.write_lines(run_folder / "metrics.jsonl", lines)
    found = charts(run_folder)
    assert [curve.label for curve in found["What moves the gate"].curves] == ["direction", "information"]
    assert [curve.points for curve in found["gate: best_reward"].curves] == [[(1.0, 4.5), (2.0, 4.5)]]


def test_token_kinds_keep_their_colours(run_folder: Path) -> None:
    colours = {curve.label: curve.colour for curve in charts(run_folder)["KL to the reference"].curves}
    assert colours == {"text": "text", "audio": "audio", "marks": "marks"}


def test_other_values_by_kind_get_a_chart_too(run_folder: Path) -> None:
    lines = [synthetic.train_line(step) | {"logprob/text": -1.0, "logprob/audio": -2.0} for step in (1, 2)]
    synthetic.write_lines(run_folder / "metrics.jsonl", lines)
    assert [curve.label for curve in charts(run_folder)["logprob"].curves if curve.points] == ["text", "audio"]


def test_run_without_gate_or_rewards_has_no_such_charts(run_folder: Path) -> None:
    synthetic.write_lines(
        run_folder / "metrics.jsonl", [{"stage": "a", "step": 1, "split": "train", "loss": 1.0, "loss/sft": 1.0}]
    )
    assert [section.title for section in sections(read_run(run_folder))] == ["Loss"]


def test_third_evaluation_draws_held_out_curves(run_folder: Path) -> None:
    lines = [synthetic.evaluation_line(step, synthetic.BEFORE) for step in (0, 50, 100)]
    synthetic.write_lines(run_folder / "metrics.jsonl", lines)
    value, gold = charts(run_folder)["answer_accuracy"].curves
    assert list(value.band) == [(0, 0.19, 0.31), (50, 0.19, 0.31), (100, 0.19, 0.31)]
    assert [point[1] for point in gold.points] == [0.97, 0.97, 0.97]


def test_stages_are_marked_where_they_begin(run_folder: Path) -> None:
    lines = [synthetic.train_line(step) | {"stage": "warm" if step < 5 else "align"} for step in range(1, 9)]
    synthetic.write_lines(run_folder / "metrics.jsonl", lines)
    assert charts(run_folder)["Total loss"].marks == ((5.0, "align"),)
