"""What stands on a card: verdicts, what was heard, style, rewards."""

import json
from pathlib import Path

import pytest

from tests.engine.report import synthetic
from wavalign.engine.report.cards import before_and_after
from wavalign.engine.report.data import read_run
from wavalign.engine.report.page import COLUMNS, card_views
from wavalign.engine.report.sides import CardView, Score, marked
from wavalign.engine.report.sound import SoundBox


@pytest.mark.parametrize(
    ("heard", "text", "shown"),
    [
        ("it is twelve", "It is twelve.", "it is twelve"),
        ("it is ten", "it is twelve", "it is <mark>ten</mark>"),
        ("so it is twelve", "it is twelve", "<mark>so</mark> it is twelve"),
        ("", "it is twelve", ""),
        ("<b>", "<b> it", "&lt;b&gt;"),
        ("<i>", "b", "<mark>&lt;i&gt;</mark>"),
    ],
)
def test_what_was_not_written_is_marked(heard: str, text: str, shown: str) -> None:
    assert marked(heard, text) == shown


def test_nobody_listened() -> None:
    assert marked(None, "it is twelve") is None


def views(folder: Path) -> list[CardView]:
    run = read_run(folder)
    return card_views(before_and_after(run), COLUMNS, SoundBox(), run.measures)[0]


def test_a_card_says_what_came_of_every_answer(run_folder: Path) -> None:
    lines = synthetic.rollout_lines(run_folder)
    for line in lines[:2]:
        line |= {
            "values": {"text_right": 1.0, "style_right": 0.0, "quality": 3.0125, "heard_right": None,
                       "style_right/a=b": 1.0},
            "details": {"heard": "it has ate", "style_asked": "sad", "style_measured": None, "note": 2.5},
            "reference_values": {"text_right": 1.0},
            "reference_details": {"heard": "a spider", "style_asked": "sad", "style_measured": "sad"},
        }  # fmt: skip
    lines[2]["values"] = {"text_right": 0.0}
    synthetic.write_lines(run_folder / "rollouts.jsonl", lines)
    said = {"quality": {"metric": "q", "unit": "MOS", "says": "How it sounds."}}
    (run_folder / "measures.json").write_text(json.dumps(said), encoding="utf-8")
    card = views(run_folder)[0]
    assert (card.dialogue, card.style) == ("d0", "sad")
    before, after, reference = card.sides
    assert [(each.name, each.verdict, each.value, each.says) for each in after.badges] == [
        ("text_right", "right", "", ""),
        ("style_right", "wrong", "", ""),
        ("quality", "", "3.01 MOS", "How it sounds."),
    ]
    assert after.style == ("sad", "not to be told")
    assert ("note", "2.50") in after.others
    assert after.heard is not None and "<mark>ate</mark>" in after.heard
    assert reference.style == ("sad", "sad")
    assert (reference.heard, [each.verdict for each in reference.badges]) == ("a spider", ["right"])
    assert before.scores == (Score("reward", 2.25, ""), Score("answer", 1.0, ""), Score("speech", 3.5, ""))
    silent = views(run_folder)[1].sides[0]
    assert (silent.sound, silent.sound_note, silent.cut) == (None, "No sound.", True)


def test_what_is_right_everywhere_is_not_said_on_every_card(run_folder: Path) -> None:
    lines = synthetic.rollout_lines(run_folder)
    for index, line in enumerate(lines):
        line["values"] = {"well_formed": 1.0, "text_right": float(index % 2)}
    synthetic.write_lines(run_folder / "rollouts.jsonl", lines)
    for card in views(run_folder):
        assert {each.name for side in card.sides for each in side.badges} == {"text_right"}
