"""The calibration curve of a reward model on a run's page."""

from pathlib import Path

from tests.engine.report import synthetic
from wavalign.engine.report.curves import sections
from wavalign.engine.report.data import read_run


def line(step: int, **values: float) -> dict[str, object]:
    return {"stage": "judge", "step": step, "split": "golden", "accuracy": 0.7, "accuracy/count": 10, **values}


def test_the_last_measurement_is_drawn_beside_what_it_should_be(run_folder: Path) -> None:
    early = {"calibration/0/sure": 0.5, "calibration/0/right": 0.5, "calibration/0/pairs": 10, "ece": 0.0}
    late = {"calibration/9/sure": 0.98, "calibration/9/right": 0.9, "calibration/9/pairs": 6,
            "calibration/2/sure": 0.62, "calibration/2/right": 0.5, "calibration/2/pairs": 4, "ece": 0.096}  # fmt: skip
    synthetic.write_lines(run_folder / "metrics.jsonl", [line(0, **early), line(8, **late)])
    (section,) = [each for each in sections(read_run(run_folder)) if each.title == "Calibration"]
    (chart,) = section.charts
    assert chart.title == "Calibration on golden"
    assert "0.096" in chart.caption
    measured, ideal = chart.curves
    assert measured.points == [(62.0, 0.5), (98.0, 0.9)]
    assert ideal.points == [(50.0, 0.5), (100.0, 1.0)]


def test_every_facet_has_a_curve(run_folder: Path) -> None:
    values = {f"{name}/{key}": value for name in ("rhythm", "timbre")
              for key, value in (("calibration/3/sure", 0.7), ("calibration/3/right", 0.6), ("ece", 0.1))}  # fmt: skip
    synthetic.write_lines(run_folder / "metrics.jsonl", [line(4, **values)])
    (section,) = [each for each in sections(read_run(run_folder)) if each.title == "Calibration"]
    assert [curve.label for curve in section.charts[0].curves] == ["rhythm", "timbre", "as right as sure"]
    assert "rhythm 0.100, timbre 0.100" in section.charts[0].caption


def test_without_a_reward_model_there_is_none(run_folder: Path) -> None:
    assert "Calibration" not in [each.title for each in sections(read_run(run_folder))]
