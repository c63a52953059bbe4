"""`wavalign judge calibrate` on judges whose faults are known."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.calibration import write_scores
from tests.toy.world import toy_recipe, write_recipe
from wavalign_cli import app as application

JUDGES = Path(__file__).parents[2] / "benchmarks" / "known_judge.py"


def recipe(folder: Path, **options: object) -> str:
    """The toy recipe with a judge of these faults."""
    made = toy_recipe(folder)
    made["plugins"] = [*made["plugins"], str(JUDGES)]
    made["rewards"] = {**made["rewards"], "judge": {"type": "known_judge", "answers": 120, **options}}
    return str(write_recipe(folder, made))


def told(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    found = application.main(["judge", "calibrate", *arguments])
    said = capsys.readouterr()
    assert found == code, said
    return said.out + said.err


def calibrated(capsys: pytest.CaptureFixture[str], recipe: str, *arguments: str) -> dict[str, Any]:
    found = application.main(["judge", "calibrate", recipe, "--reward", "judge", *arguments, "--format", "json"])
    said = capsys.readouterr()
    assert found == 0, said
    made: dict[str, Any] = json.loads(said.out)
    return made


@pytest.fixture
def scores(tmp_path: Path) -> str:
    return str(write_scores(tmp_path / "human.jsonl", prompts=30, answers=4))


def test_known_faults_are_found(tmp_path: Path, scores: str, capsys: pytest.CaptureFixture[str]) -> None:
    faulty = recipe(tmp_path, bias=0.5, noise=0.4, per_ten_words=0.3, drift=0.6)
    found = calibrated(capsys, faulty, "--on", scores)
    truth = {"bias": 0.5, "noise": 0.16, "per_ten_words": 0.3, "order": 0.6}
    statistics = found["statistics"]
    for name, value in truth.items():
        spare = 0.03 if name != "noise" else 0.04  # the drift is a variance within answers, too
        assert statistics[name]["low"] - spare <= value <= statistics[name]["high"] + spare, (name, statistics[name])
    assert statistics["length_words"]["low"] > 0 and statistics["mae_affine"]["value"] < statistics["mae"]["value"]
    assert found["noise"] == statistics["noise"]["value"]
    assert (found["answers"], found["prompts"], found["raters"], found["repeats"]) == (120, 30, [3, 3], 3)
    assert found["replies"]["asked"] == 360 and found["replies"]["counts"] == {"requests": 360.0}


def test_an_exact_judge_has_none(tmp_path: Path, scores: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = calibrated(capsys, recipe(tmp_path), "--on", scores, "--repeats", "2")["statistics"]
    assert found["self_sd"]["value"] == 0 and found["self_agreement"]["value"] == 1 and found["noise"]["value"] == 0
    assert abs(found["order"]["value"]) < 1e-12
    assert abs(found["bias"]["value"]) < 0.05 and abs(found["per_ten_words"]["value"]) < 0.1


def test_what_has_no_value_is_counted_and_never_a_number(
    tmp_path: Path, scores: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in Path(scores).read_text().splitlines()]
    rows += [{**rows[0], "id": f"empty-{i}", "answer": "", "scores": 1} for i in range(5)]
    path = tmp_path / "more.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = calibrated(capsys, recipe(tmp_path, fails_at=0.3, answers=125), "--on", str(path))
    replies = found["replies"]
    assert replies["asked"] == 375 == replies["judged"] + replies["failed"] + replies["absent"]
    assert 0 < replies["absent"] <= 15 and 60 < replies["failed"] < 160
    assert set(replies["reasons"]) == {"the judge was down", "no text"}
    assert 100 < found["answers"] <= 120, "of those whose three askings all failed nothing is known"
    assert abs(found["statistics"]["bias"]["value"]) < 0.06, "a failed asking counts as no score at all"


def test_people_read_a_table_a_picture_and_a_page(
    tmp_path: Path, scores: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "judge.json", tmp_path / "judge.html"
    options = ("--on", scores, "--by", "half", "-o", str(out), "--report", str(page))
    rows = [json.loads(line) for line in Path(scores).read_text().splitlines()]
    rows = [{**row, "half": "first" if place < 60 else "second"} for place, row in enumerate(rows)]
    rows[3]["answer"] = "<script>alert(1)</script>"
    Path(scores).write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = told(capsys, 0, recipe(tmp_path, noise=0.3, rounded=True), "--reward", "judge", *options)
    assert "judge (known_judge) against people: 120 answers to 30 prompts, 3 raters each" in said
    assert "asked 360 times: 360 values, 0 failures" in said and "Spearman within prompt" in said
    assert "half=first:" in said and "half=second:" in said and "judge says" in said
    assert json.loads(out.read_text())["parts"]["half=first"]["bias"]["count"] == 60
    html = page.read_text()
    assert "Where they differ" in html and "isotonic correction" in html and "<script>alert" not in html
    assert html.count('class="asked"') == 360


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("--reward", "other"), 2, "there is no reward `other`"),
        (("--reward", "judge", "--stage", "x"), 2, "there is no stage `x`"),
        (("--reward", "judge", "--by", "mood"), 2, "--by mood: no row has this key"),
        (("--reward", "judge", "--scale", "5", "1"), 2, "does not rise"),
        (("--reward", "judge", "--scale", "0", "2"), 5, "human.jsonl:1: scores: "),
        (("--reward", "exact"), 5, "is outside the reward's range, 0 to 1"),
        (("--reward", "judge", "-o", "no/such/folder.json"), 2, "there is no such folder"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path,
    scores: str,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    complaint: str,
) -> None:
    made = recipe(tmp_path)
    name = "exact" if "exact" in arguments else ""
    if name:
        rewards = json.loads(json.dumps(toy_recipe(tmp_path)["rewards"]))
        arguments = ("--reward", next(iter(rewards)))
    assert complaint in told(capsys, code, made, "--on", scores, *arguments)


def test_a_judge_that_never_answers_is_no_calibration(
    tmp_path: Path, scores: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = told(capsys, 6, recipe(tmp_path, fails_at=1.0), "--reward", "judge", "--on", scores)
    assert "gave no value for any of 120 answers (first: the judge was down)" in said
