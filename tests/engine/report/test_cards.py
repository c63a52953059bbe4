"""Which dialogues are shown, in which order, and under which filter."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.engine.report import synthetic
from wavalign.engine.report.cards import Card, before_and_after, side_by_side
from wavalign.engine.report.data import read_run
from wavalign.engine.report.page import COLUMNS, MOST_CARDS, card_views
from wavalign.engine.report.sound import SoundBox


def sample(step: int, item: int, text: str, **more: Any) -> dict[str, Any]:
    line = synthetic.outcome(step, item, text, values=more.pop("values", {}), details=more.pop("details", {}))
    return line | {"finished": True, "metadata": {}, **more}


def write(folder: Path, samples: list[dict[str, Any]], outcomes: list[dict[str, Any]], **more: Any) -> Path:
    synthetic.write_run(folder, **more)
    synthetic.write_lines(folder / "rollouts.jsonl", samples)
    if outcomes:
        synthetic.write_lines(folder / "evaluation.jsonl", sorted(outcomes, key=lambda line: int(line["step"])))
    return folder


def cards(folder: Path) -> dict[str, Card]:
    return {card.dialogue: card for card in before_and_after(read_run(folder))}


def both(
    item: int, early: str, late: str, before: Mapping[str, float], after: Mapping[str, float], **details: Any
) -> Any:
    return [
        synthetic.outcome(0, item, early, values=before),
        synthetic.outcome(100, item, late, values=after, details=details),
    ]


def test_samples_are_joined_by_dialogue_before_and_after(run_folder: Path) -> None:
    first, second = before_and_after(read_run(run_folder))
    assert (first.dialogue, second.dialogue) == ("d0", "d1")
    before, after = first.answers
    assert before is not None and after is not None
    assert (before.step, after.step) == (0, 100)
    assert before.text == "Spiders live in webs and houses."
    assert before.audio == run_folder / "audio/a0-0.wav"


def test_the_other_side_comes_from_the_outcomes(tmp_path: Path) -> None:
    """A sample that was kept at the end only stands beside what was written at the start, without its sound."""
    outcomes = both(3, "then", "now", {"text_right": 0.0}, {"text_right": 1.0})
    found = cards(write(tmp_path / "run", [sample(100, 3, "now", values={"text_right": 1.0})], outcomes))["d3"]
    before, after = found.answers
    assert before is not None and after is not None
    assert (before.text, before.sample, after.text) == ("then", None, "now")
    assert after.sample is not None
    assert found.tags == {"right", "better"}


def test_what_got_worse_is_shown_though_nobody_kept_its_sound(tmp_path: Path) -> None:
    outcomes = both(0, "a", "b", {"text_right": 1.0}, {"text_right": 0.0})
    outcomes += both(1, "a", "b", {"text_right": 0.0}, {"text_right": 1.0})
    found = cards(write(tmp_path / "run", [], outcomes))
    assert {name: set(card.tags) for name, card in found.items()} == {"d0": {"wrong", "worse"}}


def test_suspicious_ones_come_first_with_their_reasons(tmp_path: Path) -> None:
    plain = {"text_right": 1.0, "heard_right": 1.0}
    samples = [sample(step, item, "fine", values=plain) for step in (0, 100) for item in (0, 1)]
    samples += [sample(0, 2, "no", values={"text_right": 0.0, "heard_right": 1.0})]
    samples += [sample(100, 2, "yes", values={"text_right": 1.0, "heard_right": 0.0}, details={"heard": "tess"})]
    samples += [sample(0, 3, "fine", reward=1.0), sample(100, 3, "fine", reward=2.0, finished=False)]
    found = before_and_after(read_run(write(tmp_path / "run", samples, [])))
    assert [card.dialogue for card in found] == ["d2", "d3", "d0", "d1"]
    assert found[0].reasons == ("text right, heard wrong", "text_right up, heard_right down")
    assert found[0].tags == {"suspicious", "wrong"}
    assert found[1].reasons == ("cut off",)
    assert found[1].tags == {"suspicious", "better"}
    assert found[2].tags == {"right"}


def test_what_is_odd_does_not_crowd_out_what_was_chosen_beforehand(tmp_path: Path) -> None:
    """Fixed samples have both sounds, odd ones one; when a page is full, the fixed ones stay, behind the odd ones."""
    folder = tmp_path / "run"
    sound = {"audio": "audio/a0-0.wav"}
    fixed = [sample(step, item, "fine", **sound) for step in (0, 100) for item in range(MOST_CARDS - 2)]
    odd = [sample(100, 500 + item, "", **sound) for item in range(5)]
    run = read_run(write(folder, [*fixed, *odd], []))
    found, notes = card_views(before_and_after(run), COLUMNS, SoundBox(budget=0), {})
    assert [card.dialogue for card in found] == ["d500", "d501", *(f"d{item}" for item in range(MOST_CARDS - 2))]
    assert notes == [f"3 of {MOST_CARDS + 3} kept dialogues are not shown; see evaluation.jsonl."]


def test_a_lone_late_evaluation_stands_after_a_lone_early_one_before(tmp_path: Path) -> None:
    (late,) = before_and_after(read_run(write(tmp_path / "late", [sample(100, 0, "x")], [])))
    assert late.answers[0] is None and late.answers[1] is not None
    folder = write(tmp_path / "early", [sample(0, 0, "x")], [])
    (early,) = before_and_after(read_run(folder))
    assert early.answers[0] is not None and early.answers[1] is None


def test_evaluations_between_are_neither_before_nor_after(tmp_path: Path) -> None:
    samples = [sample(0, 0, "start"), sample(50, 0, "middle"), sample(50, 1, "odd one"), sample(100, 0, "end")]
    found = cards(write(tmp_path / "run", samples, []))
    assert [answer.text for answer in found["d0"].answers if answer] == ["start", "end"]
    assert list(found) == ["d0"]


def test_runs_answer_side_by_side(tmp_path: Path) -> None:
    right, wrong = {"text_right": 1.0}, {"text_right": 0.0}
    a = write(tmp_path / "a", [sample(100, 0, "x", values=right), sample(100, 1, "y", values=right)], [])
    b = write(tmp_path / "b", [sample(100, 0, "z", values=wrong), sample(100, 1, "y", values=right)], [], seed=8)
    c = write(tmp_path / "c", [sample(0, 5, "start"), sample(100, 5, "q")], both(0, "p", "p", right, wrong), seed=9)
    found = {card.dialogue: card for card in side_by_side([read_run(folder) for folder in (a, b, c)])}
    assert set(found) == {"d0", "d1"}
    assert [answer.text if answer else None for answer in found["d0"].answers] == ["x", "z", "p"]
    assert [answer.text if answer else None for answer in found["d1"].answers] == ["y", "y", None]
    assert (set(found["d0"].tags), set(found["d1"].tags)) == ({"apart"}, {"right"})
