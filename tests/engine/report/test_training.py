"""Training answers on the page, and what should worry a reader."""

from pathlib import Path
from typing import Any

import pytest

from tests.engine.report import synthetic
from wavalign.engine.report.data import read_run
from wavalign.engine.report.sound import SoundBox
from wavalign.engine.report.summary import rows
from wavalign.engine.report.training import StepView, steps, worries


def answer(step: int, group: int, text: str, reward: float | None, **more: Any) -> dict[str, Any]:
    return {
        "stage": "align", "step": step, "split": "train", "group": group, "dialogue": f"d{group}",
        "question": f"q{group}", "text": text, "reference": "r", "finished": True, "metadata": {},
        "reward": reward, "reward/answer": reward, "advantage": 0.5, **more,
    }  # fmt: skip


def shown(folder: Path, lines: list[dict[str, Any]]) -> list[StepView]:
    synthetic.write_lines(folder / "rollouts.jsonl", lines)
    return steps(read_run(folder), SoundBox())


def test_groups_at_several_steps_with_their_rewards(run_folder: Path) -> None:
    lines = []
    for step in range(10, 101, 10):
        lines += [answer(step, 0, "same", 1.0) for _ in range(3)]
        lines += [answer(step, 1, "low", 1.0), answer(step, 1, "high", 3.0), answer(step, 1, "low", 1.0)]
        lines += [answer(step, 2, "low", 1.0), answer(step, 2, "top", 5.0, advantage=-0.25)]
    found = shown(run_folder, lines)
    assert [each.step for each in found] == [10, 40, 70, 100]
    first, widest = found[-1].groups
    assert (found[-1].kept, found[-1].dead) == (3, 1)
    assert (first.question, first.is_dead, [(each.text, each.times) for each in first.answers]) == (
        "q0",
        True,
        [("same", 3)],
    )
    assert (widest.question, widest.is_dead) == ("q2", False)
    assert [(each.text, each.scores[0].value, each.advantage) for each in widest.answers] == [
        ("low", 1.0, 0.5),
        ("top", 5.0, -0.25),
    ]
    assert [score.name for score in widest.answers[0].scores] == ["reward"]


def test_an_answer_shows_its_breakdown_what_was_heard_and_its_sound(run_folder: Path) -> None:
    heard = {"reward/speech": None, "reason/speech": "no sound", "detail/speech/heard": "something else"}
    (step,) = shown(run_folder, [answer(1, 0, "it is ten", 2.0, audio="audio/a0-0.wav", **heard)] * 2)
    first, second = step.groups[0].answers
    assert [(score.name, score.value, score.reason) for score in first.scores] == [
        ("reward", 2.0, ""),
        ("answer", 2.0, ""),
        ("speech", None, "no sound"),
    ]
    assert first.heard == "<mark>something else</mark>"
    assert first.reasons == ("heard differs from the text",)
    assert first.sound is not None and second.sound is not None  # what can be heard is not merged


def test_lines_without_a_group_are_told_apart_by_dialogue(run_folder: Path) -> None:
    lines = [answer(1, 0, "a", 1.0), answer(1, 1, "b", 2.0)]
    for line in lines:
        del line["group"]
    (step,) = shown(run_folder, lines)
    assert [group.question for group in step.groups] == ["q0", "q1"]


def worried(folder: Path, **changes: float) -> list[str]:
    lines = [line | changes for line in synthetic.synthetic_steps(20)]
    synthetic.write_lines(folder / "metrics.jsonl", lines)
    run = read_run(folder)
    return worries(run, rows(run))


def test_a_dead_signal_is_said(run_folder: Path) -> None:
    (said,) = worried(run_folder, zero_variance_groups=1.0)
    assert said.startswith("In 20 of 20 steps all answers of every group got the same reward")
    assert worried(run_folder) == []


def test_answers_that_are_cut_off_are_said(run_folder: Path) -> None:
    (said,) = worried(run_folder, truncated=0.75)
    assert said.startswith("At the end 75% of the training answers were cut off")


def test_guards_that_most_answers_trip_are_said(run_folder: Path) -> None:
    (said,) = worried(run_folder, **{"reward/loops/tripped": 0.75, "reward/speech/tripped": 0.25})
    assert said.startswith("At the end 75% of the training answers tripped the guard loops")


@pytest.mark.parametrize("marks", ["0000", "----"])
def test_metrics_that_cannot_tell_are_said(tmp_path: Path, marks: str) -> None:
    folder = synthetic.judged_run(tmp_path / "run", {"heard_right": marks}, {"heard_right": "0101"}, gold=0.0)
    run = read_run(folder)
    said = worries(run, rows(run))
    assert said[0].startswith("Not one gold answer counts as right by heard_right on heldout")
    assert said[1:] == (
        ["heard_right on heldout could be measured on no item before training."] if marks == "----" else []
    )
