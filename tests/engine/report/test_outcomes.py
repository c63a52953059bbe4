"""Reading what came of every item, and pairing it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from wavalign.engine.report.outcomes import compare, read_outcomes


def write(folder: Path, evaluations: Sequence[tuple[int, Sequence[tuple[str, float | None]]]]) -> Path:
    folder.mkdir(parents=True)
    lines = []
    for step, items in evaluations:
        for index, (dialogue, value) in enumerate(items):
            line: dict[str, Any] = {
                "stage": "align", "step": step, "split": "heldout", "item": index, "dialogue": dialogue, "text": "t",
                "question": "q", "reference": None, "finished": True, "values": {"right": value},
                "details": {"heard": "h"},
            }  # fmt: skip
            lines.append(json.dumps(line))
    (folder / "evaluation.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_the_first_and_the_last_evaluation_are_paired_by_dialogue(tmp_path: Path) -> None:
    start, middle, end = ([("a", 0.0), ("b", 0.0)], [("a", 1.0), ("b", None)], [("a", 1.0), ("b", 1.0)])
    folder = write(tmp_path / "run", [(0, start), (3, middle), (6, end)])
    notes: list[str] = []
    ends = read_outcomes(folder, notes)["heldout"]
    assert notes == []
    assert {key: (each.step, each.values) for key, each in ends.first.items()} == {
        ("a", 0): (0, {"right": 0.0}),
        ("b", 0): (0, {"right": 0.0}),
    }
    assert {each.step for each in ends.last.values()} == {6}
    found = compare([ends.last], [ends.first], "right")
    assert found is not None
    assert (found.difference, found.count, found.only_a, found.only_b) == (1.0, 2, 2, 0)
    assert compare([ends.last], [ends.first], "never measured") is None


def test_only_common_items_are_compared(tmp_path: Path) -> None:
    """Other limits, another order, a dialogue twice: pairs are those both have."""
    a = read_outcomes(write(tmp_path / "a", [(0, [("x", 1.0), ("y", 0.0), ("x", 0.0), ("z", 1.0)])]), [])["heldout"]
    b = read_outcomes(write(tmp_path / "b", [(0, [("w", 1.0), ("x", 0.0), ("x", 1.0), ("y", 0.0)])]), [])["heldout"]
    found = compare([a.last], [b.last], "right")
    assert found is not None
    assert (found.count, found.only_a, found.only_b, found.difference) == (3, 1, 1, 0.0)
    other = read_outcomes(write(tmp_path / "c", [(0, [("q", 1.0)])]), [])["heldout"]
    assert compare([a.last], [other.last], "right") is None
    assert compare([a.last], [{}], "right") is None


def test_several_seeds_are_compared_on_what_all_have(tmp_path: Path) -> None:
    runs = [
        read_outcomes(write(tmp_path / name, [(0, [("x", value), ("y", value), (name, 1.0)])]), [])["heldout"].last
        for name, value in (("a1", 1.0), ("a2", 1.0), ("b1", 0.0), ("b2", 0.0))
    ]
    found = compare(runs[:2], runs[2:], "right")
    assert found is not None
    assert (found.seeds, found.count, found.difference) == (2, 4, 1.0)


@pytest.mark.parametrize("bad", ['{"stage": "al', "[1]", "{}", '"text"', '{"stage": "a", "step": "x"}'])
def test_a_line_that_is_none_becomes_a_note(tmp_path: Path, bad: str) -> None:
    folder = write(tmp_path / "run", [(0, [("a", 1.0)])])
    with (folder / "evaluation.jsonl").open("a", encoding="utf-8") as file:
        file.write(bad)
    notes: list[str] = []
    assert len(read_outcomes(folder, notes)["heldout"].last) == 1
    assert notes == ["evaluation.jsonl, line 2 is no outcome of an item; it was left out."]


def test_a_run_without_outcomes_has_none(tmp_path: Path) -> None:
    assert read_outcomes(tmp_path, []) == {}
