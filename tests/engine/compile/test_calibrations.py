"""A calibration that a recipe names: what it becomes, and which are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.calibration import write_scores
from tests.cli.test_judge import JUDGES, calibrated, recipe
from tests.toy.compiled import Change, compiled, only_stage, problems, put
from wavalign.engine.compile.calibrations import identity
from wavalign.plugins.judging import rubric
from wavalign.plugins.registry import Registry
from wavalign.schema.calibration import Correction, Identity
from wavalign.schema.reward import RewardSection


@pytest.fixture
def made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Path]:
    """Calibrates a judge of some faults, and gives its file."""

    def make(prompts: int = 20, **faults: object) -> Path:
        scores = write_scores(tmp_path / "human.jsonl", prompts=prompts, answers=3)
        out = tmp_path / "judge.json"
        calibrated(capsys, recipe(tmp_path, **faults), "--on", str(scores), "-o", str(out), "--scale", "0", "6")
        return out

    return make


def names(file: Path, correction: str = "affine", **faults: Any) -> Change:
    """A judge of these faults that names a calibration."""

    def change(tree: dict[str, Any]) -> None:
        judge = {"type": "known_judge", "answers": 120, **faults}
        calibration = {"file": str(file), "correction": correction}
        tree["plugins"] = [*tree["plugins"], str(JUDGES)]
        tree["rewards"] = {"judge": {**judge, "calibration": calibration}}

    return change


def test_the_plan_holds_what_corrects(tmp_path: Path, made: Callable[..., Path]) -> None:
    file = made(noise=0.3, bias=0.4)
    found = json.loads(file.read_text())
    for name, key in (("affine", "line"), ("isotonic", "curve")):
        stage = only_stage(compiled(tmp_path, names(file, name, noise=0.3, bias=0.4)))
        correction = stage.corrections["judge"]
        assert correction.model_dump(mode="json")[key] == found[name]
        assert correction.scale == (0, 6) and correction.noise == found["noise"]
        assert not stage.warnings
    bare = only_stage(compiled(tmp_path, names(file, "none", noise=0.3, bias=0.4))).corrections["judge"]
    assert bare == Correction(noise=found["noise"])
    assert "corrections" not in only_stage(compiled(tmp_path)).model_dump(), "a plan without one is as it was"


def test_another_calibration_is_another_plan(tmp_path: Path, made: Callable[..., Path]) -> None:
    file = made(noise=0.3)
    plan = compiled(tmp_path, names(file, noise=0.3))
    text = json.loads(file.read_text())
    text["affine"]["slope"] += 0.01
    file.write_text(json.dumps(text))
    assert compiled(tmp_path, names(file, noise=0.3)).fingerprint != plan.fingerprint


def test_options_that_change_no_value_may_differ(tmp_path: Path, made: Callable[..., Path]) -> None:
    file = made(noise=0.3, budget=1.0)
    assert only_stage(compiled(tmp_path, names(file, noise=0.3, budget=7.0))).corrections


@pytest.mark.parametrize(
    ("faults", "correction", "others", "complaint"),
    [
        ({"noise": 0.3}, "affine", {"noise": 0.4}, "made with a judge of other options"),
        ({"stretch": -1.0}, "affine", {"stretch": -1.0}, "does not rise with people's scores (pearson"),
        ({"stretch": -1.0}, "isotonic", {"stretch": -1.0}, "does not rise with people's scores (spearman"),
        ({"stretch": 0.0}, "affine", {"stretch": 0.0}, "does not rise with people's scores (pearson correlation none)"),
        ({"prompts": 6}, "affine", {}, "has 18 answers, too few for affine, which needs 20"),
        ({"prompts": 16}, "isotonic", {}, "has 48 answers, too few for isotonic, which needs 50"),
    ],
)
def test_a_calibration_that_does_not_hold_is_refused(
    tmp_path: Path,
    made: Callable[..., Path],
    faults: dict[str, Any],
    correction: str,
    others: dict[str, Any],
    complaint: str,
) -> None:
    file = made(**faults)
    (problem,) = problems(tmp_path, names(file, correction, **others))
    assert complaint in problem.message and problem.path == "rewards.judge.calibration.file" and problem.hint
    assert problem.where is not None


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "gone.json"
    (problem,) = problems(tmp_path, names(file))
    assert "the calibration cannot be read" in problem.message
    file.write_text("{}")
    (problem,) = problems(tmp_path, names(file))
    assert "is no calibration: recipe: Field required" in problem.message


def test_another_type_is_another_judge(tmp_path: Path, made: Callable[..., Path]) -> None:
    file, name = made(), next(iter(only_stage(compiled(tmp_path)).stage.rewards))
    (problem,) = problems(tmp_path, put(f"rewards.{name}.calibration", {"file": str(file)}))
    assert "a judge of another type: known_judge" in problem.message


def test_a_judge_that_may_not_agree_at_all_is_warned_of(tmp_path: Path, made: Callable[..., Path]) -> None:
    faults: dict[str, Any] = {"stretch": 0.03, "noise": 0.5}
    file = made(**faults)
    text = json.loads(file.read_text())
    text["statistics"]["pearson"] |= {"value": 0.05, "low": -0.1}
    text["affine"]["slope"] = 0.02
    file.write_text(json.dumps(text))
    (warning,) = only_stage(compiled(tmp_path, names(file, **faults))).warnings
    assert "may be as low as -0.10" in warning.message


def test_nothing_asked_twice_has_no_noise(tmp_path: Path, made: Callable[..., Path]) -> None:
    file = made(noise=0.3)
    text = json.loads(file.read_text())
    text["noise"] = None
    file.write_text(json.dumps(text))
    (problem,) = problems(tmp_path, names(file, "none", noise=0.3))
    assert "nothing was asked twice" in problem.message


def judge(**changes: Any) -> tuple[str, Identity]:
    """Which judge a section makes."""
    service = {"url": "http://a/v1", "model": "m", **changes.pop("service", {})}
    section = RewardSection.model_validate({"type": "judge", "judges": {"one": service}, **changes})
    params = Registry().get("reward", "judge").Params.model_validate(dict(section.params)).model_dump(mode="json")
    found = identity(section.model_copy(update={"params": params}), Registry(), ())
    return found.fingerprint, found


def test_another_model_or_rubric_is_another_judge_and_another_budget_is_not(tmp_path: Path) -> None:
    mine, found = judge()
    assert found.type == "judge" and "judge m by overall" in found.instrument
    same: list[dict[str, Any]] = [
        {"budget": {"requests": 5}}, {"concurrency": 2}, {"cache": False}, {"retries": {"attempts": 2}},
        {"service": {"api_key": "${env:KEY}"}}, {"service": {"requests_per_minute": 6}},
        {"service": {"prices": {"input": 1, "output": 1}}},
    ]  # fmt: skip
    for changes in same:
        assert judge(**changes)[0] == mine, changes
    others: list[dict[str, Any]] = [
        {"rubric": "semantic"}, {"samples": 3}, {"hears": "both"}, {"combine": "median"}, {"service": {"model": "n"}},
        {"service": {"temperature": 0.5}}, {"service": {"url": "http://b/v1"}},
    ]  # fmt: skip
    prints = [judge(**changes)[0] for changes in others]
    assert len({mine, *prints}) == 1 + len(others)
    text = (Path(rubric.__file__).parent / "rubrics" / "overall.yaml").read_text()
    for name, content in (("a", text), ("b", text), ("c", text.replace("the", "these", 1))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.yaml").write_text(content)
    a, b, c = (judge(rubric_file=str(tmp_path / name / "mine.yaml"))[0] for name in "abc")
    assert a == b != c, "what counts is what the file says, not where it lies"
