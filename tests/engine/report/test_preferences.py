"""What losses on pairs log, as charts and as worries."""

from pathlib import Path
from typing import Any

from tests.engine.report import synthetic
from wavalign.engine.report.comparison import render_comparison
from wavalign.engine.report.curves import sections
from wavalign.engine.report.data import read_run
from wavalign.engine.report.preferences import preference_terms, preference_worries
from wavalign.engine.report.training import worries


def pairs_line(step: int, *, chosen: float, accuracy: float = 0.7, stage: str = "dpo") -> dict[str, Any]:
    """What a loss on pairs logs after `step` steps when the chosen log-prob moved by `chosen`."""
    values = {
        "margin": 0.1 * step, "accuracy": accuracy, "chosen_reward": 0.1 * chosen, "rejected_reward": -0.2 * step,
        "chosen_logprob": -90.0 + chosen, "rejected_logprob": -95.0 - step,
        "chosen_drift": chosen, "rejected_drift": -2.0 * step, "own": 1.0,
    }  # fmt: skip
    line: dict[str, Any] = {"stage": stage, "step": step, "split": "train", "time": "2026-01-05T10:00:00Z"}
    return line | {f"pref/{name}": value for name, value in values.items()}


def write(folder: Path, lines: list[dict[str, Any]]) -> Path:
    synthetic.write_run(folder)
    synthetic.write_lines(folder / "metrics.jsonl", lines)
    return folder


def test_both_sides_stand_in_one_chart(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", [pairs_line(step, chosen=0.0) for step in range(1, 21)])
    found = {section.title: section.charts for section in sections(read_run(folder))}
    assert [(chart.title, [curve.label for curve in chart.curves]) for chart in found["Preferences"]] == [
        ("pref: margin", ["margin"]),
        ("pref: accuracy", ["accuracy"]),
        ("pref: implicit reward", ["chosen", "rejected"]),
        ("pref: log-prob", ["chosen", "rejected"]),
        ("pref: drift", ["chosen", "rejected"]),
    ]
    accuracy = found["Preferences"][1]
    assert (accuracy.floor, accuracy.top) == (0.0, 1.0)
    drift = found["Preferences"][4].curves[1]
    assert (drift.points[0], drift.points[-1]) == ((1.0, -2.0), (20.0, -40.0))
    assert [chart.title for chart in found["Inside the losses"]] == ["pref: own"]


def test_terms_are_known_by_what_they_log() -> None:
    assert preference_terms(["a/margin", "a/accuracy", "b/margin", "c/accuracy", "d/ratio"]) == ["a"]


def said(tmp_path: Path, lines: list[dict[str, Any]]) -> list[str]:
    return list(preference_worries(read_run(write(tmp_path, lines))))


def test_a_chosen_side_that_falls_is_said(tmp_path: Path) -> None:
    (found,) = said(tmp_path / "fell", [pairs_line(step, chosen=-0.5 * step) for step in range(1, 21)])
    assert "the chosen answers of pref became less likely, by 9.8 nats" in found
    assert worries(read_run(tmp_path / "fell"), []) == [found]
    assert said(tmp_path / "held", [pairs_line(step, chosen=0.5 * step) for step in range(1, 21)]) == []
    assert said(tmp_path / "bit", [pairs_line(step, chosen=-0.02 * step) for step in range(1, 21)]) == []


def test_pairs_that_are_told_apart_at_once_are_said(tmp_path: Path) -> None:
    def lines(first: int) -> list[dict[str, Any]]:
        return [pairs_line(step, chosen=0, accuracy=0.6 if step < first else 1.0) for step in range(1, 21)]

    (found,) = said(tmp_path / "early", lines(4))
    assert "told all but every hundredth pair apart from step 4 on" in found
    assert said(tmp_path / "late", lines(12)) == []
    assert said(tmp_path / "short", lines(1)[:5]) == []
    (each,) = said(
        tmp_path / "two", [*lines(15), *(pairs_line(20 + s, chosen=0, accuracy=1, stage="b") for s in range(1, 12))]
    )
    assert each.startswith("In stage b")


def test_runs_are_compared_by_them(tmp_path: Path) -> None:
    runs = [read_run(write(tmp_path / str(n), [pairs_line(step, chosen=n) for step in range(1, 5)])) for n in range(2)]
    page = render_comparison(runs)
    assert "Preferences" in page and "pref/chosen_drift" in page
