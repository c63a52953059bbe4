"""Reading a run's folder: whole, torn, resumed, missing."""

import json
from pathlib import Path

import pytest

from tests.engine.report import synthetic
from wavalign.engine.report.data import read_run
from wavalign.engine.report.stages import Pruned
from wavalign.errors import DataError


def test_whole_run_is_read_without_notes(run_folder: Path) -> None:
    run = read_run(run_folder)
    assert run.notes == ()
    assert (run.name, run.seed, run.fingerprint) == ("synthetic-hybrid", 7, "07ab34cd56ef")
    assert run.description == "Synthetic numbers for the tests of the report; nothing here was measured."
    assert run.complete
    assert (run.steps_done, run.steps_planned, run.splits) == (100, 100, ("heldout",))
    assert run.seconds == pytest.approx(100 * 1.5 + 2 * 4.5)
    assert run.stages[0].pruned[0] == Pruned("align", "reference", "no term asks for a KL")
    assert ("versions.torch", "2.13.0") in run.environment
    assert ("command", "wavalign run synthetic.yaml") in run.environment


def test_torn_last_line_is_left_out_and_noted(run_folder: Path) -> None:
    path = run_folder / "metrics.jsonl"
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole + '{"stage": "align", "step": 101, "los', encoding="utf-8")
    run = read_run(run_folder)
    assert run.steps_done == 100
    assert len(run.notes) == 1
    assert "metrics.jsonl, line 103 is torn" in run.notes[0]


def test_line_that_is_no_object_is_noted(run_folder: Path) -> None:
    path = run_folder / "rollouts.jsonl"
    path.write_text("[1, 2]\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    run = read_run(run_folder)
    assert len(run.samples) == 4
    assert run.notes == ("rollouts.jsonl, line 1 is no JSON object; it was left out.",)


def test_steps_run_again_after_a_resume_count_once(run_folder: Path) -> None:
    again = synthetic.train_line(90) | {"loss": 123.0}
    with (run_folder / "metrics.jsonl").open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(again) + "\n")
    run = read_run(run_folder)
    assert [line.values["loss"] for line in run.train if line.step == 90] == [123.0]
    assert [line.step for line in run.train] == list(range(1, 101))
    assert any("again after a resume: 1" in note for note in run.notes)


def test_value_that_is_no_number_leaves_a_gap_and_a_note(run_folder: Path) -> None:
    bad = synthetic.train_line(101) | {"loss": float("nan"), "reward": None}
    with (run_folder / "metrics.jsonl").open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(bad) + "\n")
    run = read_run(run_folder)
    assert "loss" not in run.train[-1].values
    assert "reward" not in run.train[-1].values
    assert any(note.startswith("loss was not a finite number on 1") for note in run.notes)


def test_run_that_still_goes_is_not_complete(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    synthetic.write_lines(folder / "metrics.jsonl", [synthetic.train_line(step) for step in range(1, 38)])
    run = read_run(folder)
    assert not run.complete
    assert run.steps_done == 37
    assert run.name == "run"
    missing = {"plan.json", "rollouts.jsonl", "environment.json"}
    assert {note.split(" ")[0] for note in run.notes} == missing


def test_torn_plan_is_noted(run_folder: Path) -> None:
    (run_folder / "plan.json").write_text('{"name": "x", ', encoding="utf-8")
    assert any(note.startswith("plan.json cannot be read") for note in read_run(run_folder).notes)


def test_folder_that_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither metrics\.jsonl nor plan\.json"):
        read_run(tmp_path)


def test_codec_stage_has_no_steps(run_folder: Path) -> None:
    plan = json.loads((run_folder / "plan.json").read_text(encoding="utf-8"))
    plan["stages"].insert(0, {"name": "codec", "stage": {"type": "fit_codec", "steps": 100}})
    (run_folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    assert [(stage.name, stage.steps) for stage in read_run(run_folder).stages] == [("codec", 0), ("align", 100)]


def test_sample_keeps_scores_reasons_and_details(run_folder: Path) -> None:
    sample = read_run(run_folder).samples[2]
    assert sample.dialogue == "d1"
    assert sample.parts == {"answer": 1.0, "speech": None}
    assert sample.reasons == {"speech": "no sound to hear"}
    assert sample.details == {"speech/heard": "the capital is."}
    assert sample.finished is False
    assert sample.audio is None
    assert sample.reference_audio == run_folder / "audio/ref1.wav"
