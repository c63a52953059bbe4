"""`wavalign judge calibrate` on judges whose faults are known."""

import itertools
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from benchmarks.calibration import write_scores
from tests.plugins.judging.server import Asked, refuses, serving
from tests.plugins.judging.server import scores as gives_score
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


def judged_by(folder: Path, url: str, **more: object) -> str:
    """The toy recipe with a judge behind `url`, whose replies are kept."""
    made = toy_recipe(folder)
    service = {"url": url, "model": "fake", "max_tokens": 100, "prices": {"input": 1, "output": 2}}
    judge = {"type": "judge", "judges": {"one": service}, "rubric": "semantic", "cache": True, **more}
    made["rewards"] = {"judge": judge}
    return str(write_recipe(folder, made))


def test_a_judge_behind_a_server_is_asked_anew_every_time(
    tmp_path: Path, scores: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cache would repeat itself and look as if the judge did."""
    monkeypatch.setenv("WAVALIGN_CACHE", str(tmp_path / "cache"))
    lines = Path(scores).read_text().splitlines()[:24]
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(lines) + "\n")
    counter = itertools.count()

    def wavers(asked: Asked, sock: socket.socket) -> None:
        gives_score(2 + next(counter) % 3)(asked, sock)

    with serving(wavers) as server:
        found = calibrated(capsys, judged_by(tmp_path, server.url), "--on", str(few), "--repeats", "2")
        assert len(server.asked) == 48 == found["replies"]["counts"]["requests"]
    assert found["noise"] > 0.1 and found["replies"]["counts"]["cost"] > 0
    assert "fake" in found["judge"]["instrument"] and "semantic" in found["judge"]["instrument"]


def test_a_judge_that_is_not_paid_ends_the_command(
    tmp_path: Path, scores: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(refuses(402, "no credit")) as server:
        said = told(capsys, 6, judged_by(tmp_path, server.url), "--reward", "judge", "--on", scores)
        assert len(server.asked) <= 16, "what is in flight, and nothing more"
    assert "402" in said or "credit" in said


def test_a_row_that_the_judge_cannot_use_is_named(
    tmp_path: Path, scores: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in Path(scores).read_text().splitlines()[:3]]
    rows[1] |= {"question": {"audio": "q.wav"}}
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(gives_score(3)) as server:
        said = told(capsys, 5, judged_by(tmp_path, server.url), "--reward", "judge", "--on", str(path))
        assert not server.asked
    assert f"{path}:2: reward `judge` cannot score this row" in said


def test_a_run_learns_from_corrected_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong answers are worth what people gave wrong ones, right ones what they gave right ones."""
    rows: list[dict[str, Any]] = [
        {
            "prompt": f"p{i % 10}",
            "question": "one plus two",
            "answer": f"it is {'three' if i % 2 else 'four'}",
            "scores": 4.5 if i % 2 else 1.5 + (i % 4) / 4,
            "metadata": {"answer": "three"},
        }
        for i in range(60)
    ]
    path, out = tmp_path / "human.jsonl", tmp_path / "judge.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = toy_recipe(tmp_path)
    made["rewards"], made["steps"] = {"exact": {"type": "toy_exact"}}, 2
    arguments = ("--reward", "exact", "--on", str(path), "--scale", "1", "5", "-o", str(out))
    told(capsys, 0, str(write_recipe(tmp_path, made)), *arguments)
    made["rewards"]["exact"]["calibration"] = {"file": "judge.json", "correction": "isotonic"}
    assert application.main(["run", str(write_recipe(tmp_path, made))]) == 0
    capsys.readouterr()
    kept = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    line = next(line for line in kept if line["split"] == "train")
    wrong = sum(row["scores"] for row in rows[::2]) / 30
    raw = line["detail/exact/uncorrected"]
    assert line["reward/exact"] == pytest.approx(4.5 if raw else wrong)
    steps = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(wrong - 1e-9 <= x["reward"] <= 4.5 for x in steps if x["split"] == "train")


PIECES = """
from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Scored

class Pieces(Reward):
    type = "toy_pieces"
    needs = frozenset({"text", "pieces"})
    range = (1.0, 5.0)
    def score(self, rollout, dialogue):
        return Scored(1.0 + len(rollout.pieces))
"""


def test_a_reward_that_reads_tokens_is_given_those_of_the_recipes_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pieces.py").write_text(PIECES)
    answers = ("one", "it is", "it is two", "three plus one is")
    rows = [{"question": "one plus two", "answer": answers[i % 4], "scores": 1 + i % 4 + 0.5} for i in range(24)]
    path = tmp_path / "human.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = toy_recipe(tmp_path)
    made["plugins"] = [*made["plugins"], str(tmp_path / "pieces.py")]
    made["rewards"] = {"judge": {"type": "toy_pieces"}, "long": {"type": "overlong", "limit": 4, "buffer": 2}}
    found = calibrated(capsys, str(write_recipe(tmp_path, made)), "--on", str(path))
    assert found["statistics"]["pearson"]["value"] == pytest.approx(1.0)
    assert found["affine"] == pytest.approx({"offset": -0.5, "slope": 1.0})
    said = told(capsys, 6, str(tmp_path / "toy.yaml"), "--reward", "long", "--on", str(path), "--scale", "1", "5")
    assert "counts the answer's tokens, and nobody sampled these answers" in said
